"""Activations inside of normalisation layers, which other libraries' conversions lose."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dr_plugins.errors import BackboneError

__all__ = ["activation_names", "check_activations"]


def activation_names(network: nn.Module) -> list[str]:
    """Names of the layers of a timm network that normalise and activate in one.

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
    # A bare layer that took the place of timm's inherits the child, and never calls it.
    return hasattr(module, "act") and type(module).__module__.partition(".")[0] == "timm"


def check_activations(network: nn.Module, names: Sequence[str]) -> None:
    """Make sure that no conversion of normalisation layers has removed an activation.

    PyTorch's conversion to `nn.SyncBatchNorm` does, and with it that of MMEngine (``sync_bn``): it
    puts a bare layer in the place of timm's `BatchNormAct2d`.

    Args:
        network: As it is now.
        names: From `activation_names`, when it was built.

    Raises:
        BackboneError: One is missing.
    """
    lost = [name for name in names if not _activates(network.get_submodule(name))]
    if lost:
        raise BackboneError(
            f"{len(lost)} activations were lost when batch normalisation was converted, that of "
            f"{lost[0]} first: the network computes something else. Convert it with "
            f"timm.layers.convert_sync_batchnorm instead (OpenMMLab: leave out sync_bn, and set "
            f"sync_bn=True in the config of TimmFeatures or TimmClassifier)"
        )
