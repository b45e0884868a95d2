"""Building blocks of key maps, which have one entry for each tensor of a state dict."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch

State = dict[str, torch.Tensor]
Change = Callable[[torch.Tensor], torch.Tensor]
Rules = Mapping[str, "str | Callable[[re.Match[str]], str]"]

WEIGHT = ("weight",)
AFFINE = ("weight", "bias")
BATCH_NORM = (*AFFINE, "running_mean", "running_var", "num_batches_tracked")


class Entry(NamedTuple):
    """How one tensor is converted.

    Attributes:
        source: Its key in the checkpoint.
        target: Its key in the converted file; None if the host does not have it.
        change: Applied to the tensor; None keeps it unchanged.
    """

    source: str
    target: str | None
    change: Change | None = None


def module(
    source: str, target: str, leaves: tuple[str, ...], change: Change | None = None
) -> Iterator[Entry]:
    """Yield the entries of a layer's tensors; `change` applies only to the weight.

    Example:
        >>> [tuple(entry) for entry in module("classifier", "fc", AFFINE)]
        [('classifier.weight', 'fc.weight', None), ('classifier.bias', 'fc.bias', None)]
    """
    for leaf in leaves:
        yield Entry(f"{source}.{leaf}", f"{target}.{leaf}", change if leaf == "weight" else None)


def is_counter(key: str) -> bool:
    """Return whether a tensor counts batches; old checkpoints do not have these."""
    return key.endswith(".num_batches_tracked")


def renamed(entries: Iterator[Entry], rules: Rules) -> Iterator[Entry]:
    """Yield entries with other targets: each rule is a pattern and what replaces it, in order."""
    for entry in entries:
        target = entry.target
        if target is not None:
            for pattern, replacement in rules.items():
                target = re.sub(pattern, replacement, target)
        yield entry._replace(target=target)
