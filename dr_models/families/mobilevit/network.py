"""MobileViT: timm's network, with the input convention of the published weights."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models.mobilevit import _create_mobilevit
from torch import nn

from dr_models.families.mobilevit.family import FAMILY
from dr_models.families.timm_parts import default_configs, from_cvnets, register_models

default_cfgs = default_configs(
    FAMILY, pool_size=(8, 8), first_conv="stem.conv", classifier="head.fc"
)


def _create(variant: str, theirs: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    model: nn.Module = _create_mobilevit(
        variant, theirs, pretrained, pretrained_filter_fn=partial(from_cvnets, FAMILY), **kwargs
    )
    return model


register_models(
    _create,
    {
        "cvnets_mobilevit_xxs": ("mobilevit_xxs",),
        "cvnets_mobilevit_xs": ("mobilevit_xs",),
        "cvnets_mobilevit_s": ("mobilevit_s",),
    },
)
