"""CVNets' ResNet: a stem of two 3×3 convolutions, the second depthwise, without pooling."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models import build_model_with_cfg
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from dr_models.families.resnet.family import FAMILY
from dr_models.families.timm_parts import default_configs, from_cvnets, register_models

default_cfgs = default_configs(FAMILY, pool_size=(7, 7), first_conv="conv1", classifier="fc")


class CVNetsResNet(ResNet):
    """timm's ResNet with CVNets' stem; see `timm.models.resnet.ResNet` for the arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "replace_stem_pool": True})
        first: Any = self.conv1
        width = first.out_channels
        place = {"device": first.weight.device, "dtype": first.weight.dtype}
        stem: Any = nn.Conv2d(first.in_channels, width, 3, 2, 1, bias=False, **place)
        pool: Any = nn.Conv2d(width, width, 3, 2, 1, groups=width, bias=False, **place)
        for conv in (stem, pool):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        self.conv1 = stem
        # timm's name: its networks pool here.
        self.maxpool[0] = pool


def _create(
    variant: str, block: type[nn.Module], layers: tuple[int, ...], pretrained: bool, **kwargs: Any
) -> nn.Module:
    model: nn.Module = build_model_with_cfg(
        CVNetsResNet,
        variant,
        pretrained,
        pretrained_filter_fn=partial(from_cvnets, FAMILY),
        block=block,
        layers=layers,
        **kwargs,
    )
    return model


register_models(
    _create,
    {
        "cvnets_resnet18": (BasicBlock, (2, 2, 2, 2)),
        "cvnets_resnet34": (BasicBlock, (3, 4, 6, 3)),
        "cvnets_resnet50": (Bottleneck, (3, 4, 6, 3)),
        "cvnets_resnet101": (Bottleneck, (3, 4, 23, 3)),
        "cvnets_resnet152": (Bottleneck, (3, 8, 36, 3)),
    },
)
