"""Key maps of MobileNetV1 to V3 and EfficientNet to timm's EfficientNet family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from dr_models.cvnets.keys import AFFINE, Entry, module
from dr_models.cvnets.layers import conv_norm, inverted_residual

# Number of blocks in CVNets' layers and in timm's stages, which group the same blocks differently.
_V1_DEPTHS = (1, 2, 2, 6, 2)
_V2_LAYERS, _V2_STAGES = (1, 2, 3, 7, 4), (1, 2, 3, 4, 3, 3, 1)
# CVNets puts the stride of a block into its name. `_V3_SE`: stages with squeeze-and-excitation.
_V3_STRIDES = {
    "small": ("2", "2", "1", "21111", "211"),
    "large": ("1", "21", "211", "211111", "211"),
}
_V3_STAGES = {"small": (1, 2, 3, 2, 3), "large": (1, 2, 3, 4, 2, 3)}
_V3_SE = {"small": {0, 2, 3, 4}, "large": {2, 4, 5}}


def _numbered(counts: Sequence[int], pattern: str, first: int = 0) -> list[tuple[str, int]]:
    """Return the names of all blocks, each with the number of its group."""
    return [
        (pattern.format(group, block), group)
        for group, count in enumerate(counts, first)
        for block in range(count)
    ]


def _stages(depths: Sequence[int]) -> list[tuple[str, int]]:
    return _numbered(depths, "blocks.{}.{}")


def mobilenet_v1() -> Iterator[Entry]:
    """Yield the entries of MobileNetV1, any width."""
    yield from conv_norm("conv_1", "conv_stem", "bn1")
    sources = _numbered(_V1_DEPTHS, "layer_{}.{}", first=1)
    for (source, _), (target, _) in zip(sources, _stages(_V1_DEPTHS), strict=True):
        yield from conv_norm(f"{source}.dw_conv", f"{target}.conv_dw", f"{target}.bn1")
        yield from conv_norm(f"{source}.pw_conv", f"{target}.conv_pw", f"{target}.bn2")
    yield from module("classifier.classifier_fc", "classifier", AFFINE)


def mobilenet_v2() -> Iterator[Entry]:
    """Yield the entries of MobileNetV2, any width."""
    yield from conv_norm("conv_1", "conv_stem", "bn1")
    sources = _numbered(_V2_LAYERS, "layer_{}.mv2_block_{}.block", first=1)
    for (source, _), (target, stage) in zip(sources, _stages(_V2_STAGES), strict=True):
        yield from inverted_residual(source, target, expand=stage > 0, se=False)
    yield from conv_norm("conv_1x1_exp", "conv_head", "bn2")
    yield from module("classifier.classifier_fc", "classifier", AFFINE)


def mobilenet_v3(mode: str) -> Iterator[Entry]:
    """Yield the entries of MobileNetV3.

    Args:
        mode: ``small`` or ``large``.
    """
    yield from conv_norm("conv_1.conv_3x3_bn", "conv_stem", "bn1")
    sources = [
        f"layer_{layer}.mv3_s_{stride}_idx_{block}.block"
        for layer, strides in enumerate(_V3_STRIDES[mode], 1)
        for block, stride in enumerate(strides)
    ]
    stages = _V3_STAGES[mode]
    for source, (target, stage) in zip(sources, _stages(stages), strict=True):
        yield from inverted_residual(source, target, stage > 0, stage in _V3_SE[mode])
    last = f"blocks.{len(stages)}.0"
    yield from conv_norm("conv_1x1_exp.conv_1x1", f"{last}.conv", f"{last}.bn1")
    yield from module("classifier.fc1", "conv_head", AFFINE, _as_pointwise)
    yield from module("classifier.classifier_fc", "classifier", AFFINE)


def _as_pointwise(weight: torch.Tensor) -> torch.Tensor:
    """Reshape a linear layer to a 1×1 convolution: ``[O, I]`` to ``[O, I, 1, 1]``."""
    return weight[:, :, None, None]


def efficientnet(*stages: int) -> Iterator[Entry]:
    """Yield the entries of EfficientNet.

    Args:
        *stages: Number of blocks in each of timm's seven stages.
    """
    layers = (*stages[:3], stages[3] + stages[4], stages[5] + stages[6])
    yield from conv_norm("conv_1", "conv_stem", "bn1")
    sources = _numbered(layers, "layer_{}.{}.block", first=1)
    for (source, _), (target, stage) in zip(sources, _stages(stages), strict=True):
        yield from inverted_residual(source, target, expand=stage > 0, se=True)
    yield from conv_norm("conv_1x1_exp", "conv_head", "bn2")
    yield from module("classifier.classifier_fc", "classifier", AFFINE)
