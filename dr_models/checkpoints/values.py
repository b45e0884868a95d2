"""Check that tensors can be the weights of a trained network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch

from dr_plugins.errors import CheckpointError

DIGEST_KEY = "content_sha256"
"""Metadata key of a converted file's digest."""


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_AUGMENTATION = "neural_augmentor."  # not part of the network
_LARGEST = 1e15  # a flipped exponent bit gives more, training never does
_SMALLEST = torch.finfo(torch.float32).tiny


def check_values(state: Mapping[str, torch.Tensor], path: object) -> None:
    """Raise for tensors that cannot be the weights of a trained network.

    Args:
        state: Tensors by name.
        path: The file, for the message.

    Raises:
        CheckpointError: A tensor is sparse, quantized, nested, without memory or larger than its
            memory, has an unsupported dtype, or holds NaN, infinity, a negative variance or an
            implausibly large number; or most of the file is zeros.
    """
    numbers = nothing = 0
    for key, value in state.items():
        _check_form(key, value, path)
        if value.dtype not in _FLOATS or not value.numel() or key.startswith(_AUGMENTATION):
            continue
        # One pass over the memory; NaN propagates.
        low, high = (bound.item() for bound in torch.aminmax(value))
        largest = max(abs(low), abs(high))
        if not largest < _LARGEST:
            raise CheckpointError(
                f"{path}: {key} holds {low} to {high}, outside the range of trained weights: the "
                f"file is damaged, or the training diverged. Use another checkpoint"
            )
        if key.endswith("running_var") and low < 0:
            raise CheckpointError(
                f"{path}: {key} holds {low}, but a variance is never negative: the file is "
                f"damaged, or weights of several networks were merged incorrectly"
            )
        numbers += value.numel()
        nothing += value.numel() if largest < _SMALLEST else 0
    if 2 * nothing > numbers:
        raise CheckpointError(
            f"{path}: {nothing:,} of its {numbers:,} numbers are in all-zero tensors: the file is "
            f"damaged, perhaps by an incomplete download. Copy or download it again"
        )


def _check_form(key: str, value: torch.Tensor, path: object) -> None:
    if value.layout is not torch.strided or value.is_quantized or value.is_nested:
        raise CheckpointError(
            f"{path}: {key} is a sparse, nested or quantized tensor; only dense ones can be "
            f"converted"
        )
    if value.dtype not in _FLOATS + _INTEGERS:
        raise CheckpointError(
            f"{path}: {key} is of type {value.dtype}; expected floating-point numbers of 16 to 64 "
            f"bits"
        )
    stored = 0 if value.is_meta else value.untyped_storage().nbytes()
    if value.numel() * value.element_size() > stored:
        raise CheckpointError(
            f"{path}: {key} has shape {list(value.shape)}, but {stored} bytes of memory; save a "
            f"copy of the tensor (.contiguous())"
        )


def digest(state: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of the metadata (except the digest) and of all tensors.

    Example:
        >>> digest({"a": torch.zeros(2)}, {"arch": "resnet18"})[:8]
        '1ca3823d'
    """
    stated = {key: value for key, value in metadata.items() if key != DIGEST_KEY}
    found = hashlib.sha256(json.dumps(stated, sort_keys=True).encode())
    for key in sorted(state):
        value = state[key].detach().contiguous()
        found.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
