"""CVNets' MobileNetV2: 32 channels in the stem and 1280 in the head at every width."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models.efficientnet import _gen_mobilenet_v2
from torch import nn

from dr_models.families.mobilenetv2.family import FAMILY
from dr_models.families.timm_parts import default_configs, from_cvnets, register_models

default_cfgs = default_configs(
    FAMILY, pool_size=(7, 7), first_conv="conv_stem", classifier="classifier"
)


def _create(variant: str, width: float, pretrained: bool, **kwargs: Any) -> nn.Module:
    model: nn.Module = _gen_mobilenet_v2(
        variant,
        width,
        fix_stem_head=True,
        pretrained=pretrained,
        pretrained_filter_fn=partial(from_cvnets, FAMILY),
        **kwargs,
    )
    return model


register_models(
    _create,
    {
        "cvnets_mobilenetv2_025": (0.25,),
        "cvnets_mobilenetv2_050": (0.5,),
        "cvnets_mobilenetv2_100": (1.0,),  # timm's `mobilenetv2_100` is the same network
    },
)
