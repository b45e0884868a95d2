"""MobileNetV3: its key map to timm's EfficientNet family, and its published models."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from dr_models.cvnets.keys import AFFINE, Entry, module
from dr_models.cvnets.layers import conv_norm, inverted_residual, stages
from dr_models.cvnets.model import CVNetsModel, Family

# CVNets puts the stride of a block into its name. `_SE`: stages with squeeze-and-excitation.
_STRIDES = {
    "small": ("2", "2", "1", "21111", "211"),
    "large": ("1", "21", "211", "211111", "211"),
}
_STAGES = {"small": (1, 2, 3, 2, 3), "large": (1, 2, 3, 4, 2, 3)}
_SE = {"small": {0, 2, 3, 4}, "large": {2, 4, 5}}


def _entries(mode: str) -> Iterator[Entry]:
    """Yield the entries of MobileNetV3.

    Args:
        mode: ``small`` or ``large``.
    """
    yield from conv_norm("conv_1.conv_3x3_bn", "conv_stem", "bn1")
    sources = [
        f"layer_{layer}.mv3_s_{stride}_idx_{block}.block"
        for layer, strides in enumerate(_STRIDES[mode], 1)
        for block, stride in enumerate(strides)
    ]
    depths = _STAGES[mode]
    for source, (target, stage) in zip(sources, stages(depths), strict=True):
        yield from inverted_residual(source, target, stage > 0, stage in _SE[mode])
    last = f"blocks.{len(depths)}.0"
    yield from conv_norm("conv_1x1_exp.conv_1x1", f"{last}.conv", f"{last}.bn1")
    yield from module("classifier.fc1", "conv_head", AFFINE, _as_pointwise)
    yield from module("classifier.classifier_fc", "classifier", AFFINE)


def _as_pointwise(weight: torch.Tensor) -> torch.Tensor:
    """Reshape a linear layer to a 1×1 convolution: ``[O, I]`` to ``[O, I, 1, 1]``."""
    return weight[:, :, None, None]


FAMILY = Family(
    "mobilenetv3",
    tuple(
        CVNetsModel(
            f"mobilenetv3_{mode}",
            "mobilenetv3",
            f"cvnets_mobilenetv3_{mode}_100",
            partial(_entries, mode),
            ("classifier.fc1.weight", 1, features),
        )
        for mode, features in (("small", 576), ("large", 960))
    ),
    torchvision="all its depthwise kernels are 3×3, some of torchvision's are 5×5",
)
