"""The networks published by Apple, registered with timm as ``cvnets_*``."""

from dr_models.networks import (
    efficientnet,
    mobilenetv1,
    mobilenetv2,
    mobilenetv3,
    mobilevit,
    resnet,
    swin_transformer,
    vision_transformer,
)

__all__ = [
    "efficientnet",
    "mobilenetv1",
    "mobilenetv2",
    "mobilenetv3",
    "mobilevit",
    "resnet",
    "swin_transformer",
    "vision_transformer",
]
