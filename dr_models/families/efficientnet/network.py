"""CVNets' EfficientNet: squeeze widths are multiples of 8, at least 32."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.efficientnet import _gen_efficientnet
from torch import nn

from dr_models.families.efficientnet.family import FAMILY
from dr_models.families.timm_parts import (
    default_configs,
    from_cvnets,
    register_models,
    squeeze_width,
)

default_cfgs = default_configs(FAMILY, first_conv="conv_stem", classifier="classifier")


def _create(variant: str, width: float, depth: float, pretrained: bool, **kwargs: Any) -> nn.Module:
    model: nn.Module = _gen_efficientnet(
        variant,
        width,
        depth,
        pretrained=pretrained,
        se_layer=partial(SqueezeExcite, rd_round_fn=squeeze_width),
        pretrained_filter_fn=partial(from_cvnets, FAMILY),
        **kwargs,
    )
    return model


register_models(
    _create,
    {
        "cvnets_efficientnet_b2": (1.1, 1.2),
        "cvnets_efficientnet_b3": (1.2, 1.4),
        "cvnets_efficientnet_b4": (1.4, 1.8),
    },
)
