"""Targets of three samples, and how to compare some."""

from __future__ import annotations

from typing import Any

import torch

from dr_plugins.targets import SparseTargets


def example(**changes: Any) -> SparseTargets:
    fields: dict[str, Any] = {
        "ids": [[4, 2], [3, -1], [0, 1]],
        "probs": [[0.5, 0.25], [1.0, 0.0], [0.125, 0.0]],
        "labels": [4, 3, -1],
        "num_classes": 6,
        "temperature": 2.0,
    }
    return SparseTargets(**(fields | changes))


def example_with_extras() -> SparseTargets:
    """With further parts of an answer: one value, and one for each class."""
    entropy, counts = torch.tensor([0.5, 1.5, float("inf")]), torch.arange(6).reshape(3, 2)
    return example(extras={"entropy": entropy, "counts": counts})


def assert_same(got: SparseTargets, expected: SparseTargets) -> None:
    assert got.ids.dtype == torch.int64
    assert got.labels.dtype == torch.int64
    assert torch.equal(got.ids, expected.ids)
    assert torch.equal(got.probs, expected.probs)
    assert got.probs.dtype == expected.probs.dtype
    assert torch.equal(got.labels, expected.labels)
    assert (got.num_classes, got.densify) == (expected.num_classes, expected.densify)
    assert got.temperature == expected.temperature
    assert list(got.extras) == list(expected.extras)
    for name, tensor in expected.extras.items():
        assert got.extras[name].dtype == tensor.dtype
        assert torch.equal(got.extras[name], tensor)
