"""Mask R-CNN with ml-dr's published Swin-T: AdamW of Liu et al., 2021, Detectron2's 3x schedule."""

import torch
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.solver import get_default_optimizer_params

from d2_ext import TimmBackbone

_base = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
dataloader, model, train = _base.dataloader, _base.model, _base.train
lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_3x
train.max_iter = 270000

# Any other network of timm or dr_models with features is one name.
model.backbone.bottom_up = L(TimmBackbone)(
    model="cvnets_swin_tiny_patch4_window7_224",
    out_features=["res2", "res3", "res4", "res5"],
    grad_checkpointing=True,
    drop_path_rate=0.2,
)
train.init_checkpoint = (
    "imagenet-plus://checkpoints/cvnets_swin_tiny_imagenet_plus.pt?source=cvnets&arch=swin_tiny"
)

optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(
        base_lr="${..lr}",
        weight_decay_norm=0.0,
        overrides={"relative_position_bias_table": {"weight_decay": 0.0}},
    ),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.05,
)

# CVNets trains on RGB images from 0 to 1.
model.pixel_mean = [0.0, 0.0, 0.0]
model.pixel_std = [255.0, 255.0, 255.0]
model.input_format = dataloader.train.mapper.image_format = "RGB"
