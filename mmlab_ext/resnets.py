"""timm's names for MMDetection's and MMSegmentation's ResNets."""

from __future__ import annotations

from typing import Any

from torch import nn

from dr_plugins.errors import BackboneError

# Their ResNets compute what timm's and torchvision's do.
_HOSTS = ("mmdet", "mmseg")
_NATIVE = {"ResNet": "resnet{}", "ResNetV1d": "resnet{}d"}


def is_native(module: nn.Module) -> bool:
    """Whether a module is a ResNet or ResNetV1d of MMDetection or MMSegmentation."""
    kind = type(module)
    return kind.__name__ in _NATIVE and kind.__module__.partition(".")[0] in _HOSTS


def native_arch(module: nn.Module) -> str | None:
    """Return timm's name for a ResNet of MMDetection or MMSegmentation; None for other modules.

    Raises:
        BackboneError: A variant that no other library has.
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
            f"with deep_stem={network.deep_stem} and avg_down={network.avg_down} the network is "
            f"neither ResNet nor ResNetV1d; leave them out"
        )
    return _NATIVE[kind].format(network.depth)


def is_shared_head(module: nn.Module) -> bool:
    """Whether a module is the ResNet stage in the RoI head of MMDetection's C4 models."""
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
