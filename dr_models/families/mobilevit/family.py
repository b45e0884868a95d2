"""MobileViT: its key map to timm's, and its published models."""

from __future__ import annotations

from collections.abc import Iterator

from dr_models.cvnets.keys import AFFINE, WEIGHT, Entry, module
from dr_models.cvnets.layers import conv_norm, transformer_block
from dr_models.cvnets.model import LAST_CONV, CVNetsModel, Family

_RESIDUALS = (1, 3, 1, 1, 1)
_TRANSFORMERS = {3: 2, 4: 4, 5: 3}
_CONVS = {"exp_1x1": "conv1_1x1", "conv_3x3": "conv2_kxk", "red_1x1": "conv3_1x1"}


def _entries() -> Iterator[Entry]:
    """Yield the entries of MobileViT, any size."""
    yield from conv_norm("conv_1", "stem.conv", "stem.bn")
    for layer, residuals in enumerate(_RESIDUALS, 1):
        for block in range(residuals):
            for theirs, ours in _CONVS.items():
                target = f"stages.{layer - 1}.{block}.{ours}"
                source = f"layer_{layer}.{block}.block.{theirs}"
                yield from conv_norm(source, f"{target}.conv", f"{target}.bn")
        if layer in _TRANSFORMERS:
            yield from _block(f"layer_{layer}.1", f"stages.{layer - 1}.1", _TRANSFORMERS[layer])
    yield from conv_norm("conv_1x1_exp", "final_conv.conv", "final_conv.bn")
    yield from module("classifier.fc", "head.fc", AFFINE)


def _block(source: str, target: str, depth: int) -> Iterator[Entry]:
    yield from conv_norm(
        f"{source}.local_rep.conv_3x3", f"{target}.conv_kxk.conv", f"{target}.conv_kxk.bn"
    )
    yield from module(f"{source}.local_rep.conv_1x1.block.conv", f"{target}.conv_1x1", WEIGHT)
    for block in range(depth):
        yield from transformer_block(
            f"{source}.global_rep.{block}", f"{target}.transformer.{block}"
        )
    yield from module(f"{source}.global_rep.{depth}", f"{target}.norm", AFFINE)
    for theirs, ours in (("conv_proj", "conv_proj"), ("fusion", "conv_fusion")):
        yield from conv_norm(f"{source}.{theirs}", f"{target}.{ours}.conv", f"{target}.{ours}.bn")


FAMILY = Family(
    "mobilevit",
    tuple(
        CVNetsModel(
            f"mobilevit_{mode}",
            "mobilevit",
            f"cvnets_mobilevit_{suffix}",
            _entries,
            (LAST_CONV, 1, features),
            size=256,
            resize=288,
            stock=(f"mobilevit_{suffix}", {}),
        )
        for mode, suffix, features in (
            ("xx_small", "xxs", 80),
            ("x_small", "xs", 96),
            ("small", "s", 160),
        )
    ),
    torchvision="torchvision has no MobileViT",
)
