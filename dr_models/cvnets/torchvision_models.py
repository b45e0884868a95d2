"""torchvision's networks with the layers replaced that differ in CVNets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision import models
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.vision_transformer import ConvStemConfig
from torchvision.ops import Conv2dNormActivation

from dr_models.cvnets.catalog import CVNETS_MODELS, canonical_name
from dr_models.cvnets.torchvision_names import torchvision_target


def torchvision_model(arch: str, num_classes: int = 1000) -> nn.Module:
    """Build the network for files converted with ``to="torchvision"``.

    It is an instance of torchvision's class with a few layers replaced; torchvision's plain network
    cannot load these files.

    Args:
        arch: A CVNets model, such as ``resnet_50``.
        num_classes: Number of classes.

    Raises:
        CheckpointError: torchvision has no similar network.

    Example:
        >>> torchvision_model("resnet_18").maxpool[0]
        Conv2d(64, 64, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), groups=64, bias=False)
    """
    model = CVNETS_MODELS[canonical_name(arch)]
    name, _ = torchvision_target(model)
    build = _BUILDERS[model.family]
    return build(model.name, name, num_classes)


def _resnet(name: str, theirs: str, num_classes: int) -> nn.Module:
    network: Any = models.get_model(theirs, weights=None, num_classes=num_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
    pool = nn.Conv2d(64, 64, 3, 2, 1, groups=64, bias=False)
    network.maxpool = nn.Sequential(pool, nn.BatchNorm2d(64), nn.ReLU(inplace=True))
    for conv in (network.conv1, pool):
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    built: nn.Module = network
    return built


def _mobilenet_v2(name: str, theirs: str, num_classes: int) -> nn.Module:
    width = float(name.rpartition("_")[2])
    network = models.mobilenet_v2(weights=None, width_mult=width, num_classes=num_classes)
    if width < 1:
        narrow: Any = network.features[1]
        network.features[0] = Conv2dNormActivation(3, 32, stride=2, activation_layer=nn.ReLU6)
        network.features[1] = InvertedResidual(32, narrow.out_channels, 1, 1)
    built: nn.Module = network
    return built


def _swin(name: str, theirs: str, num_classes: int) -> nn.Module:
    network: Any = models.get_model(theirs, weights=None, num_classes=num_classes)
    patches = network.features[0][0]
    network.features[0][0] = nn.Conv2d(3, patches.out_channels, 4, 4, 1, bias=False)
    built: nn.Module = network
    return built


def _vit(name: str, theirs: str, num_classes: int) -> nn.Module:
    model = CVNETS_MODELS[name]
    width = model.width[2]
    stem = max(32, width // 4)
    network = models.VisionTransformer(
        image_size=model.size,
        patch_size=16,
        num_layers=12,
        num_heads=width // 64,
        hidden_dim=width,
        mlp_dim=4 * width,
        num_classes=num_classes,
        # As CVNets, torchvision pads kernels of 4 by 1, and kernels of 2 by 0.
        conv_stem_configs=[ConvStemConfig(stem, 4, 4), ConvStemConfig(stem, 2, 2)],
    )
    convolutions: Any = network.conv_proj
    for block in convolutions[:2]:
        block[2] = nn.GELU()
    convolutions.conv_last = nn.Conv2d(stem, width, 2, 2)
    built: nn.Module = network
    return built


_BUILDERS: dict[str, Callable[[str, str, int], nn.Module]] = {
    "resnet": _resnet,
    "mobilenetv2": _mobilenet_v2,
    "swin": _swin,
    "vit": _vit,
}
