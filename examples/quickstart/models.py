"""Two small residual networks for 28x28 images, registered with timm.

Importing this module is all that timm needs: ``timm.create_model("fashion_resnet_student")`` works
afterwards, and so does ``timm.create_model("fashion_resnet_teacher", pretrained=True)``, with the
weights that lie beside this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.layers import ClassifierHead, ConvNormAct
from timm.models import build_model_with_cfg, register_model
from timm.models.resnet import BasicBlock, downsample_conv
from torch import Tensor, nn

# Of the 60,000 training images in [0, 1]; the three channels of a grey image are equal.
FASHION_MEAN = (0.2860,) * 3
FASHION_STD = (0.3530,) * 3

TEACHER_WEIGHTS = Path(__file__).with_name("fashion_mnist_teacher.safetensors")


class SmallResNet(nn.Module):
    """Residual network of basic blocks (He et al., 2016) for images too small to pool early.

    Stage ``i`` has ``width * 2**i`` channels; each stage after the first halves the resolution.

    Args:
        num_classes: Number of logits.
        in_chans: Channels of the input.
        width: Channels of the stem and of the first stage.
        depths: Basic blocks of each stage.
        stem_stride: Stride of the 3x3 stem; 2 computes everything at a quarter of the pixels.
        drop_rate: Dropout probability before the classifier.

    Example:
        >>> import torch
        >>> SmallResNet(width=8, depths=(1, 1)).eval()(torch.zeros(2, 3, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        width: int = 32,
        depths: tuple[int, ...] = (1, 1, 1),
        stem_stride: int = 1,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = width * 2 ** (len(depths) - 1)
        self.stem = ConvNormAct(in_chans, width, 3, stride=stem_stride)
        stages, channels = [], width
        for i, depth in enumerate(depths):
            stages.append(_stage(channels, width * 2**i, depth, stride=1 if i == 0 else 2))
            channels = width * 2**i
        self.stages = nn.Sequential(*stages)
        self.head = ClassifierHead(self.num_features, num_classes, drop_rate=drop_rate)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images ``[B, in_chans, H, W]`` to features ``[B, num_features, h, w]``."""
        return self.stages(self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``."""
        return self.head(self.forward_features(x))


def _stage(in_channels: int, channels: int, depth: int, stride: int) -> nn.Sequential:
    shortcut = downsample_conv(in_channels, channels, 1, stride) if stride > 1 else None
    first = BasicBlock(in_channels, channels, stride=stride, downsample=shortcut)
    return nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(depth - 1)))


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 10,
        "input_size": (3, 28, 28),
        "mean": FASHION_MEAN,
        "std": FASHION_STD,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "first_conv": "stem.conv",
        "classifier": "head.fc",
        **kwargs,
    }


default_cfgs = {
    "fashion_resnet_student": _cfg(),
    "fashion_resnet_teacher": _cfg(file=str(TEACHER_WEIGHTS)),
}


@register_model
def fashion_resnet_student(pretrained: bool = False, **kwargs: Any) -> SmallResNet:
    """Small enough to train on a thousand images for 120 epochs within minutes on one CPU core."""
    return _build("fashion_resnet_student", pretrained, width=32, stem_stride=2, **kwargs)


@register_model
def fashion_resnet_teacher(pretrained: bool = False, **kwargs: Any) -> SmallResNet:
    """Deeper and at full resolution; ``pretrained=True`` loads what ``train_teacher.py`` made."""
    return _build("fashion_resnet_teacher", pretrained, width=32, depths=(1, 2, 2), **kwargs)


def _build(variant: str, pretrained: bool, **kwargs: Any) -> SmallResNet:
    return build_model_with_cfg(SmallResNet, variant, pretrained, **kwargs)
