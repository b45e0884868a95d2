"""What a checkpoint says of its network: the name, and the arguments that it was built with.

Two networks may have all names and shapes in common and compute different things, such as a ResNet
with and without ``aa_layer``. A tensor beside the weights tells them apart.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from dr_plugins.errors import CheckpointError

__all__ = ["RECORD_KEY", "NetworkRecord", "check_options", "decode_record", "encode_record"]

RECORD_KEY = "_extra_state"
"""Under which PyTorch keeps what a module wants to say."""

_FORMAT = "dr_plugins.network"
_BYTES = 1024  # records have one shape, because Detectron2 skips tensors of another one
# What may differ between pretraining and transfer: regularisation, and the form of images and
# features.
_FREE = frozenset(
    (
        *("attn_drop_rate", "drop_block_rate", "drop_path_rate", "drop_rate", "patch_drop_rate"),
        *("pos_drop_rate", "proj_drop_rate", "dynamic_img_pad", "dynamic_img_size", "img_size"),
        *("strict_img_size", "output_stride", "global_pool", "num_classes", "in_chans"),
    )
)


class NetworkRecord(NamedTuple):
    """A network as timm builds it.

    Attributes:
        arch: timm's name.
        options: Arguments of `timm.create_model` besides, as JSON has them.
    """

    arch: str
    options: dict[str, Any]


def encode_record(arch: str, options: Mapping[str, Any]) -> torch.Tensor:
    """Write a record as a uint8 tensor, whose length is a multiple of 1024.

    Example:
        >>> decode_record(encode_record("resnet50", {"aa_layer": "avg"}))
        NetworkRecord(arch='resnet50', options={'aa_layer': 'avg'})
    """
    content = {"format": _FORMAT, "arch": arch, "options": _plain(options)}
    text = json.dumps(content, sort_keys=True).encode()
    return torch.tensor(list(text.ljust(-(-len(text) // _BYTES) * _BYTES)), dtype=torch.uint8)


def decode_record(value: torch.Tensor) -> NetworkRecord | None:
    """Read a record; None if a tensor is none."""
    if value.dtype != torch.uint8 or value.ndim != 1:
        return None
    try:
        content = json.loads(bytes(value.tolist()))
    except ValueError:
        return None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        return None
    return NetworkRecord(str(content["arch"]), dict(content["options"]))


def check_options(record: NetworkRecord, options: Mapping[str, Any], path: str) -> None:
    """Compare the arguments that decide what a network computes.

    Args:
        record: Of the checkpoint.
        options: Of the network that its tensors are for.
        path: Of the checkpoint, for the message.

    Raises:
        CheckpointError: They differ.
    """
    trained, own = _computing(record.options), _computing(_plain(options))
    for name in sorted(trained.keys() | own.keys()):
        if trained.get(name) != own.get(name):
            raise CheckpointError(
                f"{path} holds {record.arch} trained with {name}={trained.get(name)!r}, but the "
                f"network here has {name}={own.get(name)!r}: all tensors fit, and the features "
                f"would be wrong. Build a timm network with the same arguments (Detectron2: "
                f"MODEL.DR_TIMM.OPTIONS, lazy: TimmBackbone(...); MMEngine: TimmFeatures)"
            )


def _computing(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _FREE}


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dict(options), default=_describe))
    return plain


def _describe(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    # Not repr, which may have an address.
    return getattr(value, "__qualname__", type(value).__qualname__)
