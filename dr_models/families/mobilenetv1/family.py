"""MobileNetV1: its key map to timm's EfficientNet family, and its published models."""

from __future__ import annotations

from collections.abc import Iterator

from dr_models.cvnets.keys import AFFINE, Entry, module
from dr_models.cvnets.layers import conv_norm, numbered, stages
from dr_models.cvnets.model import CLASSIFIER, CVNetsModel, Family

_DEPTHS = (1, 2, 2, 6, 2)


def _entries() -> Iterator[Entry]:
    """Yield the entries of MobileNetV1, any width."""
    yield from conv_norm("conv_1", "conv_stem", "bn1")
    sources = numbered(_DEPTHS, "layer_{}.{}", first=1)
    for (source, _), (target, _) in zip(sources, stages(_DEPTHS), strict=True):
        yield from conv_norm(f"{source}.dw_conv", f"{target}.conv_dw", f"{target}.bn1")
        yield from conv_norm(f"{source}.pw_conv", f"{target}.conv_pw", f"{target}.bn2")
    yield from module("classifier.classifier_fc", "classifier", AFFINE)


FAMILY = Family(
    "mobilenetv1",
    tuple(
        CVNetsModel(name, "mobilenetv1", timm, _entries, (CLASSIFIER, 1, features))
        for name, timm, features in (
            ("mobilenetv1_0.25", "cvnets_mobilenetv1_025", 256),
            ("mobilenetv1_0.5", "cvnets_mobilenetv1_050", 512),
            ("mobilenetv1_1.0", "cvnets_mobilenetv1_100", 1024),
        )
    ),
    torchvision="torchvision has no MobileNetV1",
)
