from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader, Subset, WeightedRandomSampler
from torchvision.datasets import ImageFolder

from dr_plugins import ReinforcedDataset
from dr_plugins.training.draws import Draws

Passes = Callable[[np.random.Generator, int], Iterable[np.ndarray]]


@pytest.fixture
def train(photographs: Path, shard_sets: Callable[..., Path]) -> ReinforcedDataset:
    return ReinforcedDataset(ImageFolder(str(photographs)), shard_sets("rrc"), p=1.0)


def warned_after(images: int, batch: int, passes: Iterable[np.ndarray]) -> float | None:
    """How many times as many draws as images there were at the only warning."""
    draws, served = Draws(images), 0
    for order in passes:
        for batch_indices in np.split(order, range(batch, len(order), batch)):
            served += len(batch_indices)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                draws.count(3, batch_indices)
            if caught:
                assert "epoch 3" in str(caught[0].message)
                assert "set_epoch" in str(caught[0].message)
                return served / images
    return None


@pytest.mark.parametrize("batch", [1, 2, 8, 64])
@pytest.mark.parametrize(("share", "ranks"), [(1.0, 1), (0.1, 1), (1.0, 4)])
def test_passes_within_one_epoch(batch: int, share: float, ranks: int) -> None:
    """Of all images, of a subset, and of those that a rank gets, which are others in each pass."""
    rng, images = np.random.default_rng(0), 1000
    some = rng.permutation(images)[: int(share * images)]
    passes = (rng.permutation(some)[: len(some) // ranks] for _ in range(12))
    found = warned_after(images, batch, passes)
    if ranks == 1:
        assert found is not None
        assert 1.49 < found / share < 2.01
    else:  # by chance, small batches hold none twice: no telling from a sampler with replacement
        assert (found is not None) == (batch >= 16)


@pytest.mark.parametrize("batch", [1, 2, 8, 64])
@pytest.mark.parametrize("images", [100, 1000])
def test_samplers_with_replacement(batch: int, images: int) -> None:
    rng = np.random.default_rng(0)
    for weights in (np.full(images, 1 / images), rng.dirichlet(np.full(images, 0.5))):
        draws = rng.choice(images, 10 * images, p=weights)
        assert warned_after(images, batch, [draws]) is None


@pytest.mark.parametrize(("repeats", "ranks"), [(2, 1), (3, 1), (3, 2), (4, 2)])
def test_repeated_augmentation(repeats: int, ranks: int) -> None:
    """timm's RepeatAugSampler: each image several times in a row, dealt out to the ranks."""
    order = np.repeat(np.random.default_rng(0).permutation(1000), repeats)[::ranks]
    assert warned_after(1000, 8, [order]) is None


def test_looking_at_a_batch_twice_is_no_sign() -> None:
    for times in (1, 2):
        assert warned_after(1000, 6, [np.arange(6)] * times) is None


def test_an_epoch_is_warned_of_once_and_the_next_one_again() -> None:
    draws, order = Draws(20), np.arange(20)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for epoch in (0, 0, 0, 0, 1, 2, 1, 5, 5, 5):
            draws.count(epoch, order)
    assert [str(w.message).partition("epoch ")[2][0] for w in caught] == ["0", "5"]


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_a_copy_counts_by_itself(copier: Any) -> None:
    draws = Draws(20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one in (draws, copier(Draws(20)), copier(Draws(20))):
            one.count(0, np.arange(20))
        other = copier(draws)
        assert other._times.is_shared()
        with pytest.raises(UserWarning):
            other.count(0, np.arange(20))
        draws.count(1, np.arange(20))


# --- with the dataset -----------------------------------------------------------------------------


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Warnings of this process and of those that it forks, in a file."""
    path = tmp_path / "warnings.txt"
    path.touch()

    def show(message: Any, *_: Any, **__: Any) -> None:
        with path.open("a") as file:
            file.write(f"{message}\n")

    monkeypatch.setattr(warnings, "showwarning", show)
    warnings.simplefilter("always")
    # Python 3.12 and newer warn of every fork of a process that has threads.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    return lambda: path.read_text().splitlines()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("indices", [range(12), (7, 1, 4, 9)])
def test_a_forgotten_set_epoch_is_noticed_in_workers(
    train: ReinforcedDataset, said: Any, workers: int, persistent: bool, indices: Any
) -> None:
    loader: Any = DataLoader(
        Subset(train, list(indices)),
        4,
        shuffle=True,
        num_workers=workers,
        collate_fn=train.collate,
        persistent_workers=persistent and workers > 0,
    )
    for epoch in range(3):
        train.set_epoch(epoch)
        list(loader)
    assert said() == []
    for _ in range(2):
        list(loader)
    assert said()  # by both workers if they notice at the same moment
    assert all("epoch 2" in message for message in said())


def test_a_weighted_sampler_is_not_warned_of(train: ReinforcedDataset, said: Any) -> None:
    sampler = WeightedRandomSampler([1.0] * 6 + [9.0] * 6, 120)
    loader: Any = DataLoader(train, 6, sampler=sampler, num_workers=2, collate_fn=train.collate)
    list(loader)
    assert said() == []


def test_single_access_counts_too(train: ReinforcedDataset) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for epoch in range(4):
            train.set_epoch(epoch)
            list(train)
        other = train.with_own_epoch()
        list(other)
    with pytest.warns(UserWarning, match=r"Call set_epoch\(epoch\) before each epoch"):
        list(train)
