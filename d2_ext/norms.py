"""Batch normalisation as Detectron2 configures it, in networks of timm."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from d2_ext.errors import ConfigError

__all__ = ["NORMS", "convert_norms"]

NORMS = ("", "BN", "FrozenBN", "SyncBN")
"""What ``MODEL.DR_TIMM.NORM`` may be."""


def convert_norms(network: nn.Module, norm: str) -> None:
    """Convert batch normalisation in place; that of frozen layers is frozen in any case.

    The converted layers are timm's, not Detectron2's: some of timm's hold the activation as well,
    which Detectron2's conversion would lose.

    Args:
        network: Parameters that do not require gradients are taken for frozen.
        norm: One of `NORMS`.

    Raises:
        ConfigError: It is another one.
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
