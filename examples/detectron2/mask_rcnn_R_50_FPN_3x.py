"""Mask R-CNN with ml-dr's published ResNet-50, three times as long."""

from detectron2 import model_zoo

from .mask_rcnn_R_50_FPN_1x import dataloader, model, optimizer, train  # noqa: F401

lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_3x
train.max_iter = 270000
