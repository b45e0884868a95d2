"""EfficientNet: its key map to timm's, and its published models."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from dr_models.cvnets.keys import AFFINE, Entry, module
from dr_models.cvnets.layers import conv_norm, inverted_residual, numbered, stages
from dr_models.cvnets.model import LAST_CONV, CVNetsModel, Family


def _entries(*depths: int) -> Iterator[Entry]:
    """Yield the entries of EfficientNet.

    Args:
        *depths: Number of blocks in each of timm's seven stages.
    """
    layers = (*depths[:3], depths[3] + depths[4], depths[5] + depths[6])
    yield from conv_norm("conv_1", "conv_stem", "bn1")
    sources = numbered(layers, "layer_{}.{}.block", first=1)
    for (source, _), (target, stage) in zip(sources, stages(depths), strict=True):
        yield from inverted_residual(source, target, expand=stage > 0, se=True)
    yield from conv_norm("conv_1x1_exp", "conv_head", "bn2")
    yield from module("classifier.classifier_fc", "classifier", AFFINE)


# CVNets' configurations of b2 and b3 do not crop. There is none for b4; we assume the same.
FAMILY = Family(
    "efficientnet",
    tuple(
        CVNetsModel(
            f"efficientnet_{mode}",
            "efficientnet",
            f"cvnets_efficientnet_{mode}",
            partial(_entries, *depths),
            (LAST_CONV, 1, features),
            size=size,
            resize=size,
        )
        for mode, depths, features, size in (
            ("b2", (2, 3, 3, 4, 4, 5, 2), 352, 288),
            ("b3", (2, 3, 3, 5, 5, 6, 2), 384, 320),
            ("b4", (2, 4, 4, 6, 6, 8, 2), 448, 380),
        )
    ),
    torchvision="its squeeze-and-excitation layers are wider than torchvision's",
)
