"""The students, and how each is optimised: the same for all methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, register_model
from timm.models.mobilenetv3 import MobileNetV3, decode_arch_def
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from examples.quickstart.models import FASHION_MEAN, FASHION_STD, SmallResNet

BATCH = 50
MEAN, STD = FASHION_MEAN, FASHION_STD
_MEAN, _STD = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (MEAN, STD))


@dataclass(frozen=True)
class Recipe:
    """A student and its optimiser; the learning rate warms up for 5% and follows a cosine to 0.

    Attributes:
        build: Makes the network, with random weights.
        lr: Peak learning rate.
        weight_decay: Of the optimiser.
        adamw: AdamW, else SGD with Nesterov momentum 0.9.
    """

    build: Callable[[], nn.Module]
    lr: float
    weight_decay: float
    adamw: bool = False

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimiser of a network that `build` made."""
        if self.adamw:
            return torch.optim.AdamW(model.parameters(), self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            model.parameters(),
            self.lr,
            momentum=0.9,
            nesterov=True,
            weight_decay=self.weight_decay,
        )


default_cfgs = {
    "evidence_resnet10": {
        "num_classes": 10,
        "input_size": (3, 56, 56),
        "mean": MEAN,
        "std": STD,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "first_conv": "conv1.0",
        "classifier": "fc",
    }
}


def _mobilenet() -> nn.Module:
    """MobileNetV3's blocks, with two of its five reductions: images have 28 pixels, not 224."""
    blocks = [
        ["ds_r1_k3_s1_e1_c16_se0.25_nre"],
        ["ir_r1_k3_s2_e4.5_c24_nre", "ir_r1_k3_s1_e3.67_c24_nre"],
        ["ir_r1_k5_s1_e4_c40_se0.25", "ir_r1_k5_s1_e6_c40_se0.25"],
        ["cn_r1_k1_s1_c240"],
    ]
    return MobileNetV3(decode_arch_def(blocks), num_classes=10, stem_size=16, num_features=256)


def _vit() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=10,
        img_size=28,
        patch_size=7,
        embed_dim=96,
        depth=4,
        num_heads=4,
    )


@register_model
def evidence_resnet10(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A ResNet with four stages, which the frameworks' necks and heads expect."""
    blocks = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128)}
    options = {"stem_width": 16, "stem_type": "deep", "num_classes": 10, **blocks, **kwargs}
    return build_model_with_cfg(ResNet, "evidence_resnet10", pretrained, **options)


def _backbone() -> nn.Module:
    """`evidence_resnet10` on views of twice the size: in scenes, garments are as large."""
    enlarge = nn.Upsample(scale_factor=2, mode="bilinear")
    return nn.Sequential(enlarge, timm.create_model("evidence_resnet10"))


RECIPES = {
    "resnet": Recipe(lambda: SmallResNet(width=16, stem_stride=2), lr=0.1, weight_decay=5e-4),
    "mobilenet": Recipe(_mobilenet, lr=0.05, weight_decay=5e-4),
    "vit": Recipe(_vit, lr=1e-3, weight_decay=0.05, adamw=True),
    "backbone": Recipe(_backbone, lr=0.1, weight_decay=5e-4),
    "cells": Recipe(lambda: timm.create_model("evidence_resnet10", num_classes=2), 0.05, 5e-4),
    "teacher": Recipe(lambda: timm.create_model("fashion_resnet_teacher"), 0.1, 5e-4),
}


def to_input(views: torch.Tensor) -> torch.Tensor:
    """Normalise uint8 views ``[B, 3, H, W]``."""
    return ((views - _MEAN) / _STD).contiguous(memory_format=torch.channels_last)
