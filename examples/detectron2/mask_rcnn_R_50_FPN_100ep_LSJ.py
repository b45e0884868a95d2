"""Mask R-CNN with ml-dr's published ResNet-50: 100 epochs with large-scale jitter.

ml-dr published no configuration of its detectors. The schedule and the optimizer are those of the
nearest one of the same authors, projects/range_augment/detection/maskrcnn_resnet_50.yaml of
apple/corenet. Images and heads are those of Detectron2's recipe for long schedules: there, all
images of a batch have one of ten sizes from 512 to 1280 pixels. Left out, because Detectron2 does
not have it: the moving average of the weights (5e-4 there), and the augmentation that is learned.
"""

import inspect

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.solver import get_default_optimizer_params

from d2_ext import TimmBackbone

_base = model_zoo.get_config("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py")
dataloader, lr_multiplier, optimizer = _base.dataloader, _base.lr_multiplier, _base.optimizer
model, train = _base.model, _base.train

model.backbone.bottom_up = L(TimmBackbone)(
    model="cvnets_resnet50",
    out_features=["res2", "res3", "res4", "res5"],
    freeze_at=0,
    norm="SyncBN",
)
_file = "checkpoints/cvnets_resnet50_imagenet_plus.pt"
train.init_checkpoint = f"imagenet-plus://{_file}?source=cvnets&arch=resnet50"

# 32 images in a batch. There, batches of small images are larger; here, all are equal.
dataloader.train.total_batch_size = 32
_epoch = 118287 / 32
train.max_iter = round(100 * _epoch)
lr_multiplier.scheduler.milestones = [round(60 * _epoch), round(84 * _epoch)]
lr_multiplier.scheduler.num_updates = train.max_iter
lr_multiplier.warmup_length = 500 / train.max_iter
lr_multiplier.warmup_factor = 0.01  # from 0.001 to 0.1

optimizer.lr, optimizer.momentum, optimizer.weight_decay = 0.1, 0.9, 4e-5
optimizer.params.base_lr = "${..lr}"
optimizer.params.weight_decay_norm = 0.0
optimizer.params.weight_decay_bias = 0.0


def _slower_backbone(name):
    return 0.1 if "bottom_up." in name else 1.0


# Detectron2 0.6 has one learning rate for all layers.
if "lr_factor_func" in inspect.signature(get_default_optimizer_params).parameters:
    optimizer.params.lr_factor_func = _slower_backbone

# CVNets trains on RGB images from 0 to 1.
model.pixel_mean = [0.0, 0.0, 0.0]
model.pixel_std = [255.0, 255.0, 255.0]
model.input_format = dataloader.train.mapper.image_format = "RGB"
