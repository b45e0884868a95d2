"""MobileNetV2: its key maps to timm's EfficientNet family and to torchvision, and its models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torchvision import models
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops import Conv2dNormActivation

from dr_models.cvnets.keys import AFFINE, Entry, module
from dr_models.cvnets.layers import conv_norm, inverted_residual, numbered, stages
from dr_models.cvnets.model import LAST_CONV, CVNetsModel, Family, Torchvision

# Number of blocks in CVNets' layers and in timm's stages, which group the same blocks differently.
_LAYERS, _STAGES = (1, 2, 3, 7, 4), (1, 2, 3, 4, 3, 3, 1)


def _entries() -> Iterator[Entry]:
    """Yield the entries of MobileNetV2, any width."""
    yield from conv_norm("conv_1", "conv_stem", "bn1")
    for (source, _), (target, stage) in zip(_blocks(), stages(_STAGES), strict=True):
        yield from inverted_residual(source, target, expand=stage > 0, se=False)
    yield from conv_norm("conv_1x1_exp", "conv_head", "bn2")
    yield from module("classifier.classifier_fc", "classifier", AFFINE)


def _blocks() -> list[tuple[str, int]]:
    return numbered(_LAYERS, "layer_{}.mv2_block_{}.block", first=1)


def _torchvision_entries(model: CVNetsModel) -> Iterator[Entry]:
    yield from conv_norm("conv_1", "features.0.0", "features.0.1")
    for place, (source, _) in enumerate(_blocks(), 1):
        target, at = f"features.{place}.conv", 0
        if place > 1:  # the first block does not expand
            yield from conv_norm(f"{source}.exp_1x1", f"{target}.0.0", f"{target}.0.1")
            at = 1
        yield from conv_norm(f"{source}.conv_3x3", f"{target}.{at}.0", f"{target}.{at}.1")
        yield from conv_norm(f"{source}.red_1x1", f"{target}.{at + 1}", f"{target}.{at + 2}")
    yield from conv_norm("conv_1x1_exp", "features.18.0", "features.18.1")
    yield from module("classifier.classifier_fc", "classifier.1", AFFINE)


def _build_torchvision(model: CVNetsModel, num_classes: int) -> nn.Module:
    width = float(model.name.rpartition("_")[2])
    network = models.mobilenet_v2(weights=None, width_mult=width, num_classes=num_classes)
    if width < 1:
        narrow: Any = network.features[1]
        network.features[0] = Conv2dNormActivation(3, 32, stride=2, activation_layer=nn.ReLU6)
        network.features[1] = InvertedResidual(32, narrow.out_channels, 1, 1)
    built: nn.Module = network
    return built


FAMILY = Family(
    "mobilenetv2",
    tuple(
        CVNetsModel(name, "mobilenetv2", timm, _entries, (LAST_CONV, 1, features), stock=stock)
        for name, timm, features, stock in (
            ("mobilenetv2_0.25", "cvnets_mobilenetv2_025", 80, None),
            (
                "mobilenetv2_0.5",
                "cvnets_mobilenetv2_050",
                160,
                ("mobilenetv2_050", {"fix_stem_head": True}),
            ),
            ("mobilenetv2_1.0", "cvnets_mobilenetv2_100", 320, ("mobilenetv2_100", {})),
        )
    ),
    torchvision=Torchvision(
        lambda model: "mobilenet_v2",
        _torchvision_entries,
        _build_torchvision,
        unchanged=("mobilenetv2_1.0",),
    ),
)
