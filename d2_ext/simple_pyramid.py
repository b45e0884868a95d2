"""ViTDet's simple feature pyramid, built from the last feature of a plain ViT."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn

from d2_ext.errors import ConfigError

_SCALES = (4.0, 2.0, 1.0, 0.5)
_EPS = 1e-6  # of normalisation, as in ViTs


class SimpleFeaturePyramid(Backbone):
    """Features p2 to p6 from a single one (Li et al., 2022, arXiv 2203.16527, figure 2).

    Transposed convolutions or pooling rescale the feature, e.g. from stride 16 to strides 4, 8, 16
    and 32; each scale gets a 1×1 and a 3×3 convolution with layer normalisation. The last level
    subsamples the one before, as in Detectron2's FPN. Detectron2's main branch has the same class,
    with other names of weights; version 0.6 does not.

    Args:
        net: A backbone with one feature, whose stride is a power of 2, at least 4.
        out_channels: Of each feature.

    Raises:
        ConfigError: `net` has several features, or one of another stride.

    Example:
        >>> from d2_ext.backbones import TimmBackbone
        >>> pyramid = SimpleFeaturePyramid(TimmBackbone("vit_tiny_patch16_224"), out_channels=64)
        >>> [(name, shape.stride) for name, shape in pyramid.output_shape().items()]
        [('p2', 4), ('p3', 8), ('p4', 16), ('p5', 32), ('p6', 64)]
    """

    def __init__(self, net: Backbone, out_channels: int = 256) -> None:
        super().__init__()
        shapes: dict[str, ShapeSpec] = net.output_shape()
        if len(shapes) != 1:
            raise ConfigError(
                f"a simple feature pyramid takes one feature, but the backbone has "
                f"{', '.join(shapes)}; choose one, or set MODEL.BACKBONE.NAME to "
                f"'build_dr_timm_fpn_backbone'"
            )
        ((self.in_feature, shape),) = shapes.items()
        if shape.stride < 4 or shape.stride & (shape.stride - 1):
            raise ConfigError(
                f"the feature {self.in_feature!r} has stride {shape.stride}; expected a power of 2 "
                f"of at least 4, such as a ViT with patches of 16 pixels has"
            )
        self.net = net
        self.scales = nn.ModuleList(
            nn.Sequential(
                *_rescale(shape.channels, scale),
                *_project(_channels(shape.channels, scale), out_channels),
            )
            for scale in _SCALES
        )
        strides = [round(shape.stride / scale) for scale in _SCALES]
        strides.append(strides[-1] * 2)
        self._strides = {f"p{stride.bit_length() - 1}": stride for stride in strides}
        self._out_channels = out_channels

    @property
    def size_divisibility(self) -> int:
        """The stride of the last scale before subsampling."""
        return list(self._strides.values())[-2]

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature."""
        return {
            name: ShapeSpec(channels=self._out_channels, stride=stride)
            for name, stride in self._strides.items()
        }

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map normalised images ``[B, 3, H, W]`` to features ``[B, C, H / stride, W / stride]``."""
        feature = self.net(images)[self.in_feature]
        features = [scale(feature) for scale in self.scales]
        features.append(F.max_pool2d(features[-1], kernel_size=1, stride=2))
        return dict(zip(self._strides, features, strict=True))


class _LayerNorm(nn.LayerNorm):
    """Layer normalisation over the channels of ``[B, C, H, W]``."""

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return super().forward(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _channels(channels: int, scale: float) -> int:
    return channels // max(int(scale), 1)


def _rescale(channels: int, scale: float) -> Sequence[nn.Module]:
    if scale == 4.0:
        return (
            nn.ConvTranspose2d(channels, channels // 2, 2, 2),
            _LayerNorm(channels // 2, eps=_EPS),
            nn.GELU(),
            nn.ConvTranspose2d(channels // 2, channels // 4, 2, 2),
        )
    if scale == 2.0:
        return (nn.ConvTranspose2d(channels, channels // 2, 2, 2),)
    return (nn.MaxPool2d(2, 2),) if scale == 0.5 else ()


def _project(channels: int, out_channels: int) -> Sequence[nn.Module]:
    return (
        nn.Conv2d(channels, out_channels, 1, bias=False),
        _LayerNorm(out_channels, eps=_EPS),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        _LayerNorm(out_channels, eps=_EPS),
    )
