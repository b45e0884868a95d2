"""MobileViT: timm's network, with the input convention of the published weights."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models import register_model
from timm.models.mobilevit import _create_mobilevit
from torch import nn

from dr_models.families.mobilevit.family import FAMILY
from dr_models.families.timm_parts import default_configs, from_cvnets

default_cfgs = default_configs(
    FAMILY, pool_size=(8, 8), first_conv="stem.conv", classifier="head.fc"
)


def _create(variant: str, theirs: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    model: nn.Module = _create_mobilevit(
        variant, theirs, pretrained, pretrained_filter_fn=partial(from_cvnets, FAMILY), **kwargs
    )
    return model


@register_model
def cvnets_mobilevit_xxs(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileViT, xx small."""
    return _create("cvnets_mobilevit_xxs", "mobilevit_xxs", pretrained, **kwargs)


@register_model
def cvnets_mobilevit_xs(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileViT, x small."""
    return _create("cvnets_mobilevit_xs", "mobilevit_xs", pretrained, **kwargs)


@register_model
def cvnets_mobilevit_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileViT, small."""
    return _create("cvnets_mobilevit_s", "mobilevit_s", pretrained, **kwargs)
