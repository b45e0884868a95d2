"""Mask R-CNN with ml-dr's published ViT-B/16 and ViTDet's simple feature pyramid.

AdamW, layer-wise learning rates and 100 epochs with large-scale jitter are those of Li et al.,
2022 (ViTDet); attention is global in all blocks.
"""

import inspect
from functools import partial

import torch
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.solver import get_default_optimizer_params

from d2_ext import SimpleFeaturePyramid, TimmBackbone

_base = model_zoo.get_config("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py")
dataloader, lr_multiplier = _base.dataloader, _base.lr_multiplier
model, train = _base.model, _base.train

# A plain ViT has features of one scale; the simple feature pyramid makes the others.
model.backbone = L(SimpleFeaturePyramid)(
    net=L(TimmBackbone)(
        model="cvnets_vit_base_patch16_224",
        norm="SyncBN",
        grad_checkpointing=True,
        drop_path_rate=0.1,
    ),
    out_channels=256,
)
train.init_checkpoint = (
    "imagenet-plus://checkpoints/cvnets_vit_base_imagenet_plus.pt?source=cvnets&arch=vit_base"
)
train.amp.enabled = True

optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(
        base_lr="${..lr}",
        weight_decay_norm=0.0,
        overrides={"pos_embed": {"weight_decay": 0.0}},
    ),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.1,
)
# Detectron2 0.6 has one learning rate for all layers.
if "lr_factor_func" in inspect.signature(get_default_optimizer_params).parameters:
    from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate

    optimizer.params.lr_factor_func = partial(
        get_vit_lr_decay_rate, num_layers=12, lr_decay_rate=0.7
    )
lr_multiplier.scheduler.milestones = [163889, 177546]
lr_multiplier.warmup_length = 250 / train.max_iter
lr_multiplier.warmup_factor = 0.001

# CVNets trains on RGB images from 0 to 1.
model.pixel_mean = [0.0, 0.0, 0.0]
model.pixel_std = [255.0, 255.0, 255.0]
model.input_format = dataloader.train.mapper.image_format = "RGB"
