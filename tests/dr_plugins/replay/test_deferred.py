from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader
from torchvision.datasets import ImageFolder

from dr_plugins import ReinforcedDataset, SparseTargets
from dr_plugins.errors import DeviceMismatchError, ImageChangedError, SettingsMismatchError
from dr_plugins.policies.policy import Policy
from dr_plugins.replay import deferred
from dr_plugins.replay.deferred import DeferredViews, check_device
from dr_plugins.transforms import RandAugment
from dr_plugins.transforms.operations import OPERATIONS
from tests.dr_plugins.policies.test_policy import PRESETS
from tests.tiny import make_set, photograph
from tests.tiny import policy as small

Sets = Callable[..., Path]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture
def make(photographs: Path, shard_sets: Sets) -> Callable[..., ReinforcedDataset]:
    def build(name: str, backend: str = "tensor", **options: Any) -> ReinforcedDataset:
        images = ImageFolder(str(photographs))
        return ReinforcedDataset(images, shard_sets(name, backend), seed=3, **options)

    return build


def batches(dataset: ReinforcedDataset, workers: int = 0) -> list[tuple[Any, SparseTargets]]:
    loader = DataLoader(dataset, 5, num_workers=workers, collate_fn=dataset.collate)
    found = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        found += list(loader)
    return found


@pytest.mark.parametrize("backend", ["pil", "tensor"])
@pytest.mark.parametrize("name", PRESETS)
def test_what_is_finished_later_is_what_workers_finish(make: Any, name: str, backend: str) -> None:
    late = batches(make(name, backend, p=0.6, defer=True))
    early = batches(make(name, backend, p=0.6))
    assert len(late) == len(early) > 3
    for (deferred_views, late_targets), (views, targets) in zip(late, early, strict=True):
        assert isinstance(deferred_views, DeferredViews)
        assert deferred_views.shape == deferred_views.size() == views.shape
        assert len(deferred_views) == deferred_views.size(0) == len(views)
        before = deferred_views.cropped.clone()
        assert torch.equal(deferred_views.to("cpu"), views)
        assert torch.equal(deferred_views.cpu(), views)
        assert torch.equal(DeferredViews.cat([deferred_views] * 2).cpu(), torch.cat([views] * 2))
        assert torch.equal(deferred_views.cropped, before)
        assert torch.equal(late_targets.ids, targets.ids)
        assert torch.equal(late_targets.probs, targets.probs)


def test_a_batch_of_two_policies_is_refused(make: Any, photographs: Path, tmp_path: Path) -> None:
    train = make("randaug", p=1, defer=True)
    strong = {**train.policy.to_config()["rand_augment"], "magnitude": 25}
    other = make_set(tmp_path / "set", photographs, policy_=small(rand_augment=strong))
    both: Any = ConcatDataset(
        [train, ReinforcedDataset(ImageFolder(str(photographs)), other, p=1, defer=True)]
    )
    with pytest.raises(SettingsMismatchError, match=r"different policies.*leave out defer"):
        list(DataLoader(both, 13, collate_fn=train.collate))
    alike: Any = ConcatDataset([train, make("randaug", p=1, defer=True)])
    assert len(next(iter(DataLoader(alike, 24, collate_fn=train.collate)))[0]) == 24


def test_through_workers(make: Any) -> None:
    here = batches(make("randaug_mixing", defer=True))
    there = batches(make("randaug_mixing", defer=True), workers=2)
    for (views, _), (others, _) in zip(here, there, strict=True):
        assert torch.equal(views.to("cpu"), others.to("cpu"))


def test_a_changed_image_is_noticed(photographs: Path, shard_sets: Sets, tmp_path: Path) -> None:
    shards = shard_sets("randaug", "tensor")
    images = ImageFolder(str(photographs))
    changed = {path: photograph(99, *loaded.size[::-1]) for path, loaded in pairs(images)}
    images.loader = changed.__getitem__
    dataset = ReinforcedDataset(images, shards, p=1.0, defer=True)

    def serve_all() -> None:
        for epoch in range(dataset.shards.manifest.samples):
            dataset.set_epoch(epoch)
            dataset[0]

    with pytest.raises(ImageChangedError, match="does not replay"):
        serve_all()


def pairs(images: ImageFolder) -> list[tuple[str, Any]]:
    return [(path, images.loader(path)) for path, _ in images.samples]


def test_views_that_are_finished_later_cannot_be_postprocessed(make: Any) -> None:
    with pytest.raises(ValueError, match="leave out defer"):
        make("randaug", defer=True, postprocess=lambda view: view)


def test_views_move_before_they_are_converted(make: Any) -> None:
    ((views, _), *_) = batches(make("randaug", defer=True))
    assert views.device == torch.device("cpu")
    with pytest.raises(TypeError, match=r"convert what .to\(device\) returns"):
        views.to("cpu", torch.float32)


def test_a_device_that_computes_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, finish = small("randaug_mixing", 20), deferred._finish

    def wrong_elsewhere(policy: Policy, cropped: torch.Tensor, params: Any) -> torch.Tensor:
        if cropped.device.type == "cpu":
            return finish(policy, cropped, params)
        done = finish(policy, deferred._example(policy)[0], params)
        done[[3, 7], 1, 2, 2] ^= 1
        return done

    monkeypatch.setattr(deferred, "_finish", wrong_elsewhere)
    check_device(policy, torch.device("cpu"))
    with pytest.raises(DeviceMismatchError, match=r"2 of 96 views .*meta.*defer=False"):
        check_device(policy, torch.device("meta"))


@pytest.mark.parametrize("name", ["randaug", "randaug_mixing"])
def test_the_check_tries_every_operation(name: str) -> None:
    policy = small(name, 20)
    cropped, params = deferred._example(policy)
    place = [f.name for f in policy.fields].index("ops")
    codes = {code for p in params for code in p.view[place]}
    assert {code & 0x7F for code in codes} == set(range(len(OPERATIONS)))
    assert {code & 0x7F for code in codes if code & 0x80} == {
        n for n, operation in enumerate(OPERATIONS) if operation.signed
    }
    assert any(isinstance(t, RandAugment) for t in policy.transforms)
    assert sorted(np.unique(cropped)) == list(range(256))
    assert any(p.view[place + 1][2] for p in params)  # something is erased


def test_moving_asks_for_what_the_caller_asks(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded on a CPU: the device, whether to wait, and which memory is copied."""
    dataset, moves, pinned, to = make("rrc", p=1.0, defer=True), [], [], torch.Tensor.to
    views, _ = dataset.collate([dataset[0], dataset[1]])

    def moved(self: torch.Tensor, device: Any, non_blocking: bool = False) -> torch.Tensor:
        moves.append((str(device), non_blocking))
        return to(self, "cpu")

    def pin(self: torch.Tensor) -> torch.Tensor:
        pinned.append(self.clone())
        return pinned[-1]

    monkeypatch.setattr(deferred, "_finish", lambda policy, cropped, params: cropped)
    monkeypatch.setattr(torch.Tensor, "to", moved)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: any(self is p for p in pinned))
    assert not views.is_pinned()
    assert views.pin_memory().is_pinned()
    assert views.pin_memory().params is views.params
    views.cuda()
    views.cuda(1, non_blocking=True)
    views.to("cuda", True)
    views.cpu()
    assert moves == [("cuda", False), ("cuda:1", True), ("cuda", True), ("cpu", False)]


@needs_gpu
@pytest.mark.parametrize("name", PRESETS)
def test_a_gpu_gives_the_same_pixels(make: Any, name: str) -> None:
    late = batches(make(name, p=0.6, defer=True))
    for (deferred_views, _), (views, _) in zip(late, batches(make(name, p=0.6)), strict=True):
        pinned = deferred_views.pin_memory()
        assert pinned.is_pinned()
        found = pinned.to("cuda", non_blocking=True)
        assert found.device.type == "cuda"
        assert torch.equal(found.cpu(), views)
