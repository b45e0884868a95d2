"""Activations inside normalization layers, which conversions of other libraries lose."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dr_plugins.errors import BackboneError


def activation_names(network: nn.Module) -> list[str]:
    """Return the names of a timm network's layers that combine normalization and activation.

    Example:
        >>> import timm
        >>> len(activation_names(timm.create_model("mobilenetv3_small_050")))
        34
        >>> activation_names(timm.create_model("resnet18"))
        []
    """
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, norms) and _activates(module)
    ]


def _activates(module: nn.Module) -> bool:
    # A plain layer that replaced timm's keeps the child module but never calls it.
    return hasattr(module, "act") and type(module).__module__.partition(".")[0] == "timm"


def check_activations(network: nn.Module, names: Sequence[str]) -> None:
    """Check that no conversion of normalization layers removed an activation.

    PyTorch's conversion to `nn.SyncBatchNorm`, and thus MMEngine's ``sync_bn``, replaces timm's
    `BatchNormAct2d` by a plain layer.

    Args:
        network: The network, perhaps converted.
        names: From `activation_names`, for the network as built.

    Raises:
        BackboneError: An activation is missing.
    """
    lost = [name for name in names if not _activates(network.get_submodule(name))]
    if lost:
        raise BackboneError(
            f"{len(lost)} activations, the first in {lost[0]}, were lost when batch normalization "
            f"was converted: the network computes something else. Convert it with "
            f"timm.layers.convert_sync_batchnorm instead (OpenMMLab: remove sync_bn, and set "
            f"sync_bn=True in the config of TimmFeatures or TimmClassifier)"
        )
