"""Detectron2's settings of batch normalisation, for timm networks."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from d2_ext.errors import ConfigError

NORMS = ("", "BN", "FrozenBN", "SyncBN")
"""Values of ``MODEL.DR_TIMM.NORM``."""


def convert_norms(network: nn.Module, norm: str) -> None:
    """Convert batch normalisation in place; in frozen layers it is always frozen.

    The conversion is timm's, because some of timm's layers include the activation, which
    Detectron2's would drop.

    Args:
        network: A layer is frozen if its weight does not require gradients.
        norm: One of `NORMS`.

    Raises:
        ConfigError: Unknown `norm`.
    """
    if norm not in NORMS:
        raise ConfigError(
            f"MODEL.DR_TIMM.NORM (lazy: norm) is {norm!r}; expected one of "
            f"{', '.join(map(repr, NORMS))}"
        )
    from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d

    for parent, name, layer in list(_batch_norms(network)):
        frozen = layer.weight is not None and not layer.weight.requires_grad
        if norm == "FrozenBN" or frozen:
            parent.add_module(name, freeze_batch_norm_2d(layer))
        elif norm == "SyncBN":
            parent.add_module(name, convert_sync_batchnorm(layer))


def _batch_norms(network: nn.Module) -> Iterator[tuple[nn.Module, str, _BatchNorm]]:
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                yield parent, name, child
