"""Samples of a reinforced dataset as something that can be compared."""

from __future__ import annotations

from typing import Any

import torch

from dr_plugins import SparseTargets


def flat(sample: tuple[torch.Tensor, SparseTargets]) -> tuple[Any, ...]:
    """One sample as something that can be compared."""
    view, target = sample
    return (
        view.numpy().tobytes(),
        tuple(target.ids.tolist()),
        tuple(target.probs.tolist()),
        target.labels.tolist(),
    )


def flat_batches(loader: Any) -> list[list[tuple[Any, ...]]]:
    return [[flat((view, targets[i])) for i, view in enumerate(views)] for views, targets in loader]


def one_hot(sample: tuple[torch.Tensor, SparseTargets]) -> bool:
    ids, probs, label = sample[1].ids.tolist(), sample[1].probs.tolist(), sample[1].labels.tolist()
    return (ids, probs) == ([label] + [-1] * (len(ids) - 1), [1.0] + [0.0] * (len(ids) - 1))
