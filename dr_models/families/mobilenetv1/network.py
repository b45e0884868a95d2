"""CVNets' MobileNetV1: no activation after depthwise convolutions, ReLU elsewhere."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers import BatchNormAct2d
from timm.models._efficientnet_blocks import DepthwiseSeparableConv
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import _create_effnet
from torch import nn

from dr_models.families.mobilenetv1.family import FAMILY
from dr_models.families.timm_parts import default_configs, from_cvnets, register_models

default_cfgs = default_configs(
    FAMILY, pool_size=(7, 7), first_conv="conv_stem", classifier="classifier"
)

_STAGES = (
    ["dsa_r1_k3_s1_c64"],
    ["dsa_r2_k3_s2_c128"],
    ["dsa_r2_k3_s2_c256"],
    ["dsa_r6_k3_s2_c512"],
    ["dsa_r2_k3_s2_c1024"],
)


def _create(variant: str, width: float, pretrained: bool, **kwargs: Any) -> nn.Module:
    model: nn.Module = _create_effnet(
        variant,
        pretrained,
        block_args=decode_arch_def(list(_STAGES)),
        num_features=0,
        stem_size=32,
        # timm rounds to multiples of 8, which would change the stem of the narrowest model.
        round_chs_fn=partial(round_channels, multiplier=width, divisor=16),
        act_layer=nn.ReLU,
        pretrained_filter_fn=partial(from_cvnets, FAMILY),
        **kwargs,
    )
    for block in model.modules():
        if isinstance(block, DepthwiseSeparableConv):
            assert isinstance(block.bn1, BatchNormAct2d)
            block.bn1.act = nn.Identity()
    return model


register_models(
    _create,
    {
        "cvnets_mobilenetv1_025": (0.25,),
        "cvnets_mobilenetv1_050": (0.5,),
        "cvnets_mobilenetv1_100": (1.0,),
    },
)
