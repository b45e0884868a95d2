"""What MMDetection's and MMSegmentation's own ResNets are in the names of timm."""

from __future__ import annotations

from typing import Any

from torch import nn

from dr_plugins.errors import BackboneError

__all__ = ["check_style", "is_native", "is_shared_head", "native_arch"]

# Whose modules, apart from names, compute what timm's and torchvision's do.
_HOSTS = ("mmdet", "mmseg")
_NATIVE = {"ResNet": "resnet{}", "ResNetV1d": "resnet{}d"}


def is_native(module: nn.Module) -> bool:
    """Whether it is a ResNet of MMDetection or MMSegmentation itself, in whatever variant."""
    kind = type(module)
    return kind.__name__ in _NATIVE and kind.__module__.partition(".")[0] in _HOSTS


def native_arch(module: nn.Module) -> str | None:
    """What timm calls a ResNet of MMDetection or MMSegmentation; None for any other module.

    Raises:
        BackboneError: It is a variant that no checkpoint of another library fits.
    """
    if not is_native(module):
        return None
    network: Any = module
    kind = type(module).__name__
    check_style(network)
    conv = (network.conv_cfg or {}).get("type", "Conv2d")
    if conv not in ("Conv", "Conv2d"):
        raise BackboneError(
            f"conv_cfg.type is {conv!r}, which computes something else; leave it out"
        )
    if (network.deep_stem, network.avg_down) != ((kind == "ResNetV1d"),) * 2:
        raise BackboneError(
            f"deep_stem={network.deep_stem} and avg_down={network.avg_down} make a network that is "
            f"neither ResNet nor ResNetV1d; leave them out"
        )
    return _NATIVE[kind].format(network.depth)


def is_shared_head(module: nn.Module) -> bool:
    """Whether it is the stage of a ResNet that MMDetection's C4 models have behind the RoIs."""
    kind = type(module)
    return kind.__name__ == "ResLayer" and ".shared_heads" in kind.__module__


def check_style(network: nn.Module) -> None:
    """Refuse blocks that stride in their first convolution.

    Raises:
        BackboneError: There is one.
    """
    for part in network.modules():
        style = getattr(part, "style", "pytorch")
        if style != "pytorch":
            raise BackboneError(
                f"style is {style!r}, which strides in the first convolution of a block; set "
                f"style='pytorch'"
            )
