"""Continuing in the middle of an epoch."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import ImageFolder

from dr_plugins import ReinforcedDataset, ResumableLoader
from dr_plugins.errors import DatasetMismatchError
from dr_plugins.training.resumable import EpochSampler

Batch = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def loader(photographs: Path, shard_sets: Callable[..., Path]) -> Callable[..., ResumableLoader]:
    def make(batch_size: int = 2, **options: Any) -> ResumableLoader:
        train = ReinforcedDataset(ImageFolder(str(photographs)), shard_sets(), p=0.8, seed=3)
        return ResumableLoader(train, batch_size, seed=3, **options)

    return make


def train(loader: ResumableLoader, epochs: int, stop: int | None = None) -> list[Batch]:
    """Take the batches of the rest of `epochs`, at most `stop` of them."""
    batches: list[Batch] = []
    for epoch in range(loader.epoch, epochs):
        loader.set_epoch(epoch)
        for images, targets in loader:
            batches.append((images, targets.dense()))
            if len(batches) == stop:
                return batches
    return batches


def assert_same(batches: list[Batch], expected: list[Batch]) -> None:
    assert len(batches) == len(expected)
    for (images, targets), (other_images, other_targets) in zip(batches, expected, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(targets, other_targets)


@pytest.mark.parametrize(
    ("stop", "workers", "later"),  # an epoch has 6 batches
    [(1, 0, 0), (1, 2, 3), (5, 1, 0), (5, 2, 1), (6, 0, 2), (6, 2, 3), (9, 0, 0), (9, 2, 1)],
)
def test_the_rest_is_the_same_for_any_workers(
    loader: Callable[..., ResumableLoader], stop: int, workers: int, later: int
) -> None:
    expected = train(loader(), 3)
    assert len(expected) == 18
    first = loader(num_workers=workers)
    batches = train(first, 3, stop)
    state = pickle.loads(pickle.dumps(first.state_dict()))
    second = loader(num_workers=later, persistent_workers=later > 0)
    second.load_state_dict(state)
    batches += train(second, 3)
    assert_same(batches, expected)


def test_each_epoch_shuffles_all_images(loader: Callable[..., ResumableLoader]) -> None:
    one = loader()
    orders = []
    for epoch in range(3):
        one.set_epoch(epoch)
        orders.append(list(one.sampler))
        assert sorted(orders[-1]) == list(range(12))
    assert len(set(map(tuple, orders))) == 3


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3), (3, 1)])
def test_other_processes_continue(
    loader: Callable[..., ResumableLoader], before: int, after: int
) -> None:
    """The processes' batches together are those of one process with the whole batch."""
    expected = [sorted(b[0].flatten(1).sum(1).tolist()) for b in train(loader(6), 2)]

    def together(loaders: list[ResumableLoader], stop: int | None) -> list[list[float]]:
        parts = [train(one, 2, stop) for one in loaders]
        return [
            sorted(torch.cat([images for images, _ in batch]).flatten(1).sum(1).tolist())
            for batch in zip(*parts, strict=True)
        ]

    first = [loader(6 // before, rank=rank, world_size=before) for rank in range(before)]
    batches = together(first, 1)
    states = [one.state_dict() for one in first]
    assert all(state == states[0] for state in states)
    second = [loader(6 // after, rank=rank, world_size=after) for rank in range(after)]
    for one in second:
        one.load_state_dict(states[0])
    assert batches + together(second, None) == expected


def test_without_an_order_nothing_can_continue(loader: Callable[..., ResumableLoader]) -> None:
    with pytest.raises(ValueError, match="order"):
        loader(num_workers=2, in_order=False)


def test_an_epoch_that_is_over(loader: Callable[..., ResumableLoader]) -> None:
    one = loader()
    assert one.state_dict() == {"epoch": 0, "images": 0, "seed": 3, "size": 12}
    train(one, 1)
    assert one.state_dict() == {"epoch": 1, "images": 0, "seed": 3, "size": 12}
    again = train(one, 2)
    assert len(again) == 6
    other = loader(5)  # two whole batches and a rest
    train(other, 1, 2)
    assert other.state_dict()["images"] == 10
    dropping = loader(5, drop_last=True)
    assert len(train(dropping, 1)) == len(dropping) == 2
    assert dropping.state_dict() == {"epoch": 1, "images": 0, "seed": 3, "size": 12}


def test_the_same_epoch_again(loader: Callable[..., ResumableLoader]) -> None:
    one = loader()
    one.load_state_dict({"epoch": 2, "images": 8, "seed": 3, "size": 12})
    assert len(list(one)) == 2
    one.set_epoch(2)
    assert len(list(one)) == 6
    one.set_epoch(3)
    assert len(list(one)) == len(one) == 6


@pytest.mark.parametrize(
    ("state", "facts"),
    [
        ({"size": 13}, ["size", "13", "12"]),
        ({"seed": 0}, ["seed", "0", "3"]),
        ({"images": 5}, ["5", "2"]),
    ],
)
def test_another_state(
    loader: Callable[..., ResumableLoader], state: dict[str, int], facts: list[str]
) -> None:
    one = loader(rank=1, world_size=2)
    with pytest.raises(DatasetMismatchError) as caught:
        one.load_state_dict({**one.state_dict(), **state})
    assert all(fact in str(caught.value) for fact in facts)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_every_image_is_in_every_epoch(world_size: int) -> None:
    parts = [list(EpochSampler(13, rank=r, world_size=world_size)) for r in range(world_size)]
    assert len({len(part) for part in parts}) == 1
    dealt = np.stack(parts, 1).ravel()
    assert sorted(dealt[:13]) == list(range(13))
    assert (dealt[13:] == dealt[: len(dealt) - 13]).all()
    with pytest.raises(ValueError, match="rank"):
        EpochSampler(13, rank=world_size, world_size=world_size)
