"""ResNet, whose stem has a second convolution in place of max pooling."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

from dr_models.cvnets.keys import AFFINE, Change, Entry, module
from dr_models.cvnets.layers import conv_norm
from dr_models.cvnets.model import CLASSIFIER, CVNetsModel, Family, Torchvision


def _entries(bottleneck: bool, *depths: int, stock_stem: bool = False) -> Iterator[Entry]:
    """Yield the entries of a ResNet, to the names shared by timm and torchvision.

    Args:
        bottleneck: Whether blocks have three convolutions instead of two.
        *depths: Number of blocks in each of the four stages.
        stock_stem: Convert the stem for timm's unmodified class with ``replace_stem_pool=True``:
            pad the 3×3 kernel to 7×7, and put the depthwise kernel on the diagonal of a dense one.
            The function is the same but costs more, and training would change the zeros.
    """
    widen, densify = (_as_7x7, _as_dense) if stock_stem else (None, None)
    yield from _stem(conv_norm("conv_1", "conv1", "bn1"), widen)
    yield from _stem(conv_norm("layer_1", "maxpool.0", "maxpool.1"), densify)
    convs = 3 if bottleneck else 2
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            source, target = f"layer_{stage + 1}.block_{block}", f"layer{stage}.{block}"
            for conv in range(1, convs + 1):
                name = "conv_batch" if conv == convs else "conv_batch_act"
                yield from conv_norm(
                    f"{source}.block.{name}_{conv}", f"{target}.conv{conv}", f"{target}.bn{conv}"
                )
            # Basic blocks of the first stage change neither width nor resolution.
            if block == 0 and (bottleneck or stage > 1):
                yield from conv_norm(
                    f"{source}.down_sample", f"{target}.downsample.0", f"{target}.downsample.1"
                )
    yield from module("classifier.classifier_fc", "fc", AFFINE)


def _stem(entries: Iterator[Entry], change: Change | None) -> Iterator[Entry]:
    for entry in entries:
        is_kernel = entry.source.endswith(".conv.weight")
        yield entry._replace(change=change) if is_kernel else entry


def _as_7x7(weight: torch.Tensor) -> torch.Tensor:
    """Pad a kernel ``[O, I, 3, 3]`` with zeros to ``[O, I, 7, 7]``."""
    return F.pad(weight, (2, 2, 2, 2))


def _as_dense(weight: torch.Tensor) -> torch.Tensor:
    """Convert a depthwise kernel ``[C, 1, 3, 3]`` to a dense one ``[C, C, 3, 3]``."""
    channels = torch.arange(len(weight), device=weight.device)
    dense = weight.new_zeros(len(weight), len(weight), *weight.shape[2:])
    dense[channels, channels] = weight[:, 0]
    return dense


def _models() -> Iterator[CVNetsModel]:
    for depth, bottleneck, depths in (
        (18, False, (2, 2, 2, 2)),
        (34, False, (3, 4, 6, 3)),
        (50, True, (3, 4, 6, 3)),
        (101, True, (3, 4, 23, 3)),
        (152, True, (3, 8, 36, 3)),
    ):
        entries = partial(_entries, bottleneck, *depths)
        yield CVNetsModel(
            f"resnet_{depth}",
            "resnet",
            f"cvnets_resnet{depth}",
            entries,
            (CLASSIFIER, 1, 2048 if bottleneck else 512),
            stock=(f"resnet{depth}", {"replace_stem_pool": True}),
            stock_entries=partial(entries, stock_stem=True),
        )


def _name(model: CVNetsModel) -> str:
    return model.name.replace("_", "")


def _build_torchvision(model: CVNetsModel, num_classes: int) -> nn.Module:
    network: Any = models.get_model(_name(model), weights=None, num_classes=num_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
    pool = nn.Conv2d(64, 64, 3, 2, 1, groups=64, bias=False)
    network.maxpool = nn.Sequential(pool, nn.BatchNorm2d(64), nn.ReLU(inplace=True))
    for conv in (network.conv1, pool):
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    built: nn.Module = network
    return built


FAMILY = Family(
    "resnet",
    tuple(_models()),
    torchvision=Torchvision(_name, lambda model: model.entries(), _build_torchvision),
    in_detectors="its stem has a convolution where theirs has a max pooling",
)
