"""CVNets' MobileNetV3: all depthwise kernels are 3×3, and squeezes are wider."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.mobilenetv3 import _create_mnv3
from torch import nn

from dr_models.families.mobilenetv3.family import FAMILY
from dr_models.families.timm_parts import (
    default_configs,
    from_cvnets,
    register_models,
    squeeze_width,
)

default_cfgs = default_configs(
    FAMILY, pool_size=(7, 7), first_conv="conv_stem", classifier="classifier"
)

# Howard et al., 2019, tables 1 and 2, but for the kernels.
_SMALL = (
    ["ds_r1_k3_s2_e1_c16_se0.25_nre"],
    ["ir_r1_k3_s2_e4.5_c24_nre", "ir_r1_k3_s1_e3.67_c24_nre"],
    ["ir_r1_k3_s2_e4_c40_se0.25", "ir_r2_k3_s1_e6_c40_se0.25"],
    ["ir_r2_k3_s1_e3_c48_se0.25"],
    ["ir_r3_k3_s2_e6_c96_se0.25"],
    ["cn_r1_k1_s1_c576"],
)
_LARGE = (
    ["ds_r1_k3_s1_e1_c16_nre"],
    ["ir_r1_k3_s2_e4_c24_nre", "ir_r1_k3_s1_e3_c24_nre"],
    ["ir_r3_k3_s2_e3_c40_se0.25_nre"],
    ["ir_r1_k3_s2_e6_c80", "ir_r1_k3_s1_e2.5_c80", "ir_r2_k3_s1_e2.3_c80"],
    ["ir_r2_k3_s1_e6_c112_se0.25"],
    ["ir_r3_k3_s2_e6_c160_se0.25"],
    ["cn_r1_k1_s1_c960"],
)


def _create(
    variant: str, stages: tuple[list[str], ...], features: int, pretrained: bool, **kwargs: Any
) -> nn.Module:
    model: nn.Module = _create_mnv3(
        variant,
        pretrained,
        block_args=decode_arch_def(list(stages)),
        num_features=features,
        stem_size=16,
        round_chs_fn=round_channels,
        act_layer=nn.Hardswish,
        se_layer=partial(
            SqueezeExcite,
            gate_layer="hard_sigmoid",
            force_act_layer=nn.ReLU,
            rd_round_fn=squeeze_width,
        ),
        pretrained_filter_fn=partial(from_cvnets, FAMILY),
        **kwargs,
    )
    return model


register_models(
    _create,
    {
        "cvnets_mobilenetv3_small_100": (_SMALL, 1024),
        "cvnets_mobilenetv3_large_100": (_LARGE, 1280),
    },
)
