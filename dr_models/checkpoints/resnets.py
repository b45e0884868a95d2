"""Plain ResNets under the names of MMEngine's hosts and of Detectron2.

timm's and torchvision's ResNets have the same names and compute the same. The hosts' networks here
differ only in names: all stride in the 3×3 convolution of a bottleneck and use an eps of 1e-5.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container

from torch import nn

from dr_plugins.errors import BackboneError, CheckpointError

_EPS = 1e-5

_PLAIN = {f"resnet{depth}" for depth in (18, 34, 50, 101, 152)}
# Not 18 and 34: unlike timm, OpenMMLab also projects in their first stage.
_DEEP = {f"resnet{depth}d" for depth in (50, 101, 152)}

SHARED = _PLAIN | {"resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"}
"""Architectures with the same name and keys in timm and torchvision."""

Renamer = Callable[[str], "str | None"]


def _mmengine_plain(key: str) -> str | None:
    return None if key.startswith("fc.") else key


def _mmengine_deep(key: str) -> str | None:
    """Timm's deep stem is conv1.0 to conv1.6 and bn1, OpenMMLab's is one sequence."""
    if key.startswith("fc."):
        return None
    return re.sub(r"^bn1\.", "stem.7.", re.sub(r"^conv1\.(?=\d)", "stem.", key))


_DETECTRON2 = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer(\d)\.", lambda found: f"res{int(found[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)


def _detectron2(key: str) -> str | None:
    # Detectron2 freezes batch normalization by default, without a batch counter.
    if key.startswith("fc.") or key.endswith("num_batches_tracked"):
        return None
    for pattern, replacement in _DETECTRON2:
        key = re.sub(pattern, replacement, key)
    return key


def _detectron2_settings(depth: int) -> dict[str, object]:
    basic = {"MODEL.RESNETS.RES2_OUT_CHANNELS": 64} if depth < 50 else {}
    return {"MODEL.RESNETS.DEPTH": depth, "MODEL.RESNETS.STRIDE_IN_1X1": False, **basic}


HOST_RESNETS: dict[str, dict[str, tuple[str, dict[str, object], Renamer]]] = {
    "mmengine": {
        **{
            name: ("ResNet", {"depth": int(name[6:]), "style": "pytorch"}, _mmengine_plain)
            for name in sorted(_PLAIN)
        },
        **{
            name: ("ResNetV1d", {"depth": int(name[6:-1]), "style": "pytorch"}, _mmengine_deep)
            for name in sorted(_DEEP)
        },
    },
    "detectron2": {
        name: ("build_resnet_backbone", _detectron2_settings(int(name[6:])), _detectron2)
        for name in sorted(_PLAIN)
    },
}
"""By host and architecture: the host's backbone, its settings, and the renaming."""


def backbone_renamer(arch: str, to: str) -> tuple[str, dict[str, object], Renamer]:
    """Return the host's equivalent backbone, its settings, and a function that renames keys.

    The function returns None for keys that the backbone does not have.

    Raises:
        CheckpointError: The host has no equivalent network.
    """
    if arch not in HOST_RESNETS[to]:
        reason = (
            "its stem of three convolutions does not fit the host's stem"
            if arch in _DEEP
            else f"only {', '.join(sorted(HOST_RESNETS[to]))} are equivalent there"
        )
        raise CheckpointError(
            f"{arch} cannot be converted to {to}: {reason}. Convert it to timm instead "
            f"(--to timm), and use the timm backbone of the {to} extension"
        )
    return HOST_RESNETS[to][arch]


def check_layers(network: nn.Module, loaded: Container[str]) -> None:
    """Raise for layers that fit a plain ResNet's tensors but compute something else.

    A state dict shows neither the eps of a normalization nor the padding mode of a convolution.

    Args:
        network: A host's ResNet, or a stage of one.
        loaded: Names of the tensors from the checkpoint; only their layers are checked.

    Raises:
        BackboneError: A layer differs.

    Example:
        >>> check_layers(nn.Sequential(nn.BatchNorm2d(3, eps=1e-3)), ["0.running_var"])
        Traceback (most recent call last):
        dr_plugins.errors.BackboneError: 0 normalizes with eps 0.001, but the network was trained \
with 1e-05: the tensors fit, but the features would be wrong. Set the eps to 1e-05
    """
    for name, layer in network.named_modules():
        normalizes = f"{name}.running_var" in loaded
        eps = getattr(layer, "eps", _EPS)
        if normalizes and not math.isclose(eps, _EPS):
            raise BackboneError(
                f"{name} normalizes with eps {eps:g}, but the network was trained with {_EPS:g}: "
                f"the tensors fit, but the features would be wrong. Set the eps to {_EPS:g}"
            )
        if normalizes and isinstance(layer, nn.modules.instancenorm._InstanceNorm):
            raise BackboneError(
                f"{name} is {type(layer).__name__}, but the network was trained with batch "
                f"normalization: the tensors fit, but the features would be wrong"
            )
        padding = getattr(layer, "padding_mode", "zeros")
        if f"{name}.weight" in loaded and padding != "zeros":
            raise BackboneError(
                f"{name} pads with {padding!r}, but the network was trained with 'zeros'; remove "
                f"padding_mode"
            )
