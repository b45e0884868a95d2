"""Datasets in loaders: workers, ranks, epochs, collating."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, DataLoader, DistributedSampler, Subset
from torchvision.datasets import ImageFolder

from dr_plugins import KDLoss, ReinforcedDataset
from dr_plugins.images.sources import ImageSource
from tests.dr_plugins.training.samples import flat, flat_batches
from tests.tiny import make_set, photograph
from tests.tiny import policy as small

Sets = Callable[..., Path]


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(make: Any, workers: int) -> None:
    train = make("randaug_mixing", "tensor", p=0.7)

    def batches(count: int) -> Any:
        loader: Any = DataLoader(
            train,
            5,
            shuffle=True,
            num_workers=count,
            collate_fn=train.collate,
            generator=torch.Generator().manual_seed(3),
        )
        found = []
        for epoch in (0, 1):
            train.set_epoch(epoch)
            found.append(flat_batches(loader))
        return found

    alone = batches(0)
    assert [len(batch) for batch in alone[0]] == [5, 5, 2]
    assert alone[0] != alone[1]
    assert batches(workers) == alone


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_set_epoch_reaches_running_workers(make: Any, context: str) -> None:
    train = make("rrc", p=0.8)
    loader: Any = DataLoader(
        train,
        6,
        num_workers=1,
        collate_fn=train.collate,
        persistent_workers=True,
        multiprocessing_context=context,
    )
    for epoch in (0, 4, 1):
        train.set_epoch(epoch)
        expected = [flat(s) for s in train]
        assert [sample for batch in flat_batches(loader) for sample in batch] == expected


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_a_copy_is_independent_and_complete(make: Any, copier: Any) -> None:
    train = make("randaug", p=0.7, seed=5)
    train.set_epoch(2)
    other = copier(train)
    assert other.epoch == 2
    assert [flat(s) for s in other] == [flat(s) for s in train]
    other.set_epoch(3)
    assert (train.epoch, other.epoch) == (2, 3)
    loader: Any = DataLoader(
        other, 12, num_workers=1, collate_fn=other.collate, persistent_workers=True
    )
    for epoch in (0, 1):
        other.set_epoch(epoch)
        (batch,) = flat_batches(loader)
        assert batch == [flat(s) for s in other], "the copy's own workers follow its epoch"


def test_subsets_and_concatenations_of_it(make: Any) -> None:
    train = make("randaug_mixing", p=0.7)
    single = [flat(s) for s in train]
    part = Subset(train, [8, 1, 5])
    loader: Any = DataLoader(part, 2, collate_fn=train.collate)
    assert [s for b in flat_batches(loader) for s in b] == [single[i] for i in (8, 1, 5)]
    both: Any = ConcatDataset([part, train])
    loader = DataLoader(both, 4, collate_fn=train.collate)
    expected = [single[i] for i in (8, 1, 5, *range(12))]
    assert [s for b in flat_batches(loader) for s in b] == expected


def test_ranks_share_the_images_and_agree_about_each(make: Any) -> None:
    def rank(number: int, epoch: int) -> dict[str, tuple[Any, ...]]:
        train = make("randaug", p=0.7, seed=9)
        train.set_epoch(epoch)
        sampler: Any = DistributedSampler(train, num_replicas=2, rank=number, seed=1)
        sampler.set_epoch(epoch)
        loader: Any = DataLoader(train, 4, sampler=sampler, collate_fn=train.collate)
        samples = [s for batch in flat_batches(loader) for s in batch]
        return dict(zip((train.source.keys[i] for i in sampler), samples, strict=True))

    whole = make("randaug", p=0.7, seed=9)
    for epoch in (0, 1):
        whole.set_epoch(epoch)
        expected = dict(zip(whole.source.keys, map(flat, whole), strict=True))
        first, second = rank(0, epoch), rank(1, epoch)
        assert len(first) == len(second) == 6
        assert not first.keys() & second.keys()
        assert {**first, **second} == expected


def test_collate(make: Any) -> None:
    train = make("rrc", p=0.5)
    views, targets = train.collate([train[i] for i in range(12)])
    assert (views.dtype, views.shape) == (torch.uint8, (12, 3, 24, 24))
    assert (targets.ids.shape, targets.num_classes) == ((12, 2), 3)
    assert targets.labels.tolist() == [i // 4 for i in range(12)]
    logits = torch.zeros(12, 3)
    dense = targets.dense()
    expected = (dense * (dense.clamp_min(1e-30).log() + np.log(3))).sum() / 12
    assert KDLoss()(logits, targets) == pytest.approx(float(expected), abs=1e-5)


def test_unpicklable_options_only_matter_where_they_must_travel(make: Any) -> None:
    train = make(p=0.5, postprocess=lambda view: view)
    loader: Any = DataLoader(train, 12, num_workers=1, collate_fn=train.collate)
    assert flat_batches(loader) == [[flat(s) for s in train]]  # forked: nothing travels


def test_global_randomness_plays_no_part(make: Any) -> None:
    train = make("randaug", p=0.5)
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = [flat(s) for s in train]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    torch.manual_seed(1)
    assert [flat(s) for s in train] == first


# --- the property ---------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 2**40),
    p=st.floats(0, 1),
    order=st.lists(st.integers(0, 11), min_size=1, max_size=8),
)
def test_a_sample_is_a_function_of_seed_epoch_and_key(
    photographs: Path, shard_sets: Sets, seed: int, epoch: int, p: float, order: list[int]
) -> None:
    folder = ImageFolder(str(photographs))
    whole = ReinforcedDataset(folder, shard_sets("rrc"), p=p, seed=seed)
    part = ReinforcedDataset(Subset(folder, order), shard_sets("rrc"), p=p, seed=seed)
    whole.set_epoch(epoch)
    part.set_epoch(epoch)
    assert [flat(s) for s in part] == [flat(whole[i]) for i in order]


def test_one_image_one_sample(tmp_path: Path) -> None:
    source = ImageSource([(photograph(0, 1, 1), 1)], keys=["a"])
    out = make_set(tmp_path, source, policy_=small("randaug_mixing"), samples=1, topk=1)
    train = ReinforcedDataset(source, out, p=1.0)
    for epoch in range(3):
        train.set_epoch(epoch)
        view, target = train[0]
        assert view.shape == (3, 24, 24)
        assert target.ids.shape == (1,)


@pytest.mark.parametrize("backend", ["pil", "tensor"])
def test_collate_gives_the_views_in_any_memory_format(
    photographs: Path, shard_sets: Sets, backend: str
) -> None:
    for name in ("rrc", "randaug"):
        directory = shard_sets(name, backend)
        train = ReinforcedDataset(ImageFolder(str(photographs)), directory, p=1.0)
        samples = train.__getitems__(range(12))
        images, _ = train.collate(samples)
        assert images.shape == (12, 3, 24, 24)
        assert all(torch.equal(image, s[0]) for image, s in zip(images, samples, strict=True))
