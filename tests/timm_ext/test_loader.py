from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.data import ImageDataset
from timm.data.loader import PrefetchLoader, fast_collate
from timm.data.mixup import FastCollateMixup
from torch.utils.data import DataLoader

import timm_ext.loader
from dr_plugins import ReinforcedDataset, SparseTargets
from timm_ext import UnsupportedOptionError, create_dataset, create_loader
from timm_ext.loader import Normalize

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
Make = Callable[..., ReinforcedDataset]
# Not imported by name: `register` would bind it anew here too.
LOADER = signature(timm_ext.loader.timm_create_loader)


@pytest.fixture
def make(data_dir: Path) -> Make:
    def make(options: str = "p=1", seed: int = 0) -> ReinforcedDataset:
        name = f"imagenet-plus?{options}"
        return create_dataset(name, str(data_dir), "train", is_training=True, seed=seed)

    return make


def load(dataset: ReinforcedDataset, **options: Any) -> Any:
    call: dict[str, Any] = {"input_size": (3, 32, 32), "batch_size": 4, "is_training": True}
    call |= {"num_workers": 0, "device": torch.device("cpu"), "mean": MEAN, "std": STD}
    return create_loader(dataset, **{**call, **options})


def views_of(dataset: ReinforcedDataset) -> dict[str, torch.Tensor]:
    """Stored views by key, as the core replays them; then reset what the loader had set."""
    kept, dataset.postprocess = dataset.postprocess, None
    views = {key: dataset[i][0] for i, key in enumerate(dataset.source.keys)}
    dataset.postprocess = kept
    return views


def normalised(view: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (view.double() / 255 - mean) / std


@pytest.mark.parametrize(("prefetcher", "deferred"), [(True, False), (True, True), (False, False)])
def test_batches_are_the_stored_views_normalised_for_the_student(
    make: Make, prefetcher: bool, deferred: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make()
    if deferred:  # as on a GPU
        monkeypatch.setattr(timm_ext.loader, "_can_defer", lambda *_: True)
    loader = load(dataset, use_prefetcher=prefetcher)
    assert isinstance(loader, PrefetchLoader) == prefetcher
    assert loader.dataset.defer == deferred
    expected = {key: normalised(view) for key, view in views_of(dataset).items()}
    found = []
    for images, targets in loader:
        assert images.shape == (4, 3, 32, 32)
        assert images.dtype == torch.float32
        assert isinstance(targets, SparseTargets)
        assert targets.ids.shape == (4, 2)
        # To rounding: timm's prefetcher scales mean and std by 255 instead of the image.
        found += [
            key
            for image in images
            for key, view in expected.items()
            if (image - view).abs().max() < 1e-5
        ]
    assert sorted(found) == sorted(expected)


def test_a_gpu_finishes_the_views_unless_they_are_resized(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timm.__version__", "1.0.31")
    dataset = make()
    size = dataset.policy.view_size
    for device, prefetcher, student, expected in (
        ("cuda", True, size, True),
        (torch.device("cuda", 1), True, size, True),
        ("cuda", False, size, False),
        ("cpu", True, size, False),
        ("cuda", True, (size[0], size[1] + 1), False),
    ):
        options = {"device": device, "use_prefetcher": prefetcher}
        assert timm_ext.loader._can_defer(dataset, options, student) == expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [("1.0.16", False), ("1.0.30", False), ("1.0.31", True), ("1.1.0", True), ("2.0.0rc1", True)],
)
def test_only_prefetchers_that_keep_memory_alive_finish_views(
    make: Make, monkeypatch: pytest.MonkeyPatch, version: str, expected: bool
) -> None:
    monkeypatch.setattr("timm.__version__", version)
    dataset = make()
    options = {"device": "cuda", "use_prefetcher": True}
    assert timm_ext.loader._can_defer(dataset, options, dataset.policy.view_size) == expected


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("deferred", [True, False])
def test_unfinished_views_are_pinned(
    make: Make, monkeypatch: pytest.MonkeyPatch, asked: bool, deferred: bool
) -> None:
    seen: dict[str, Any] = {}
    original = timm_ext.loader.timm_create_loader

    def create(**options: Any) -> Any:
        seen.update(options)
        return original(**{**options, "pin_memory": False})

    create.__signature__ = LOADER  # type: ignore[attr-defined]
    monkeypatch.setattr(timm_ext.loader, "timm_create_loader", create)
    monkeypatch.setattr(timm_ext.loader, "_can_defer", lambda *_: deferred)
    load(make(), pin_memory=asked)
    assert seen["pin_memory"] == (asked or deferred)


def test_images_and_targets_stay_together(make: Make) -> None:
    loader = load(make(), use_prefetcher=False)
    dataset = loader.dataset
    alone = [dataset[i] for i in range(len(dataset))]
    for images, targets in loader:
        for image, ids, probs in zip(images, targets.ids, targets.probs, strict=True):
            matches = [t for view, t in alone if torch.equal(view, image)]
            assert any(torch.equal(t.ids, ids) and torch.equal(t.probs, probs) for t in matches)


@pytest.mark.parametrize("size", [(3, 24, 24), (3, 20, 40), 24, (24, 24)])
def test_another_input_size_resizes_the_stored_views(make: Make, size: Any) -> None:
    height, width = (24, 24) if size == 24 else size[-2:]
    loader = load(make(), input_size=size, use_prefetcher=False)
    dataset = loader.dataset
    assert next(iter(loader))[0].shape == (4, 3, height, width)
    view = views_of(dataset)[dataset.source.keys[0]]
    whole = F.interpolate(
        view[None].double(), (height, width), mode="bilinear", antialias=True, align_corners=False
    )
    expected = normalised(whole[0].round().clamp(0, 255))
    # uint8 interpolation works in integers: one level off, here and there.
    assert (dataset[0][0] - expected).abs().max() <= 1.01 / 255 / min(STD)


def test_normalize_travels_to_workers() -> None:
    assert pickle.loads(pickle.dumps(Normalize(MEAN, STD))) == Normalize(MEAN, STD)


@pytest.mark.parametrize("prefetcher", [True, False])
def test_the_plain_share_has_timms_transform(make: Make, prefetcher: bool) -> None:
    options = {"scale": (1, 1), "ratio": (1, 1), "hflip": 0, "color_jitter": None}
    options |= {"vflip": 1.0, "interpolation": "bicubic"}
    loader = load(make("p=1e-9"), use_prefetcher=prefetcher, **options)
    dataset = loader.dataset
    assert "RandomVerticalFlip(p=1.0)" in repr(dataset.transform)
    assert "bicubic" in repr(dataset.transform)
    for images, targets in loader:
        assert images.shape == (4, 3, 32, 32)
        assert torch.equal(targets.dense("zeros").argmax(1), targets.labels)
        assert (targets.dense("zeros").sum(1) == 1).all()
    key = dataset.source.keys[0]
    image, _ = dataset.source.load(0)
    expected = dataset.transform(image)
    value = dataset[dataset.source.keys.index(key)][0]
    assert torch.equal(value, torch.as_tensor(expected))


@pytest.mark.parametrize("as_array", [True, False])
def test_transforms_for_the_prefetcher_give_tensors_or_arrays(make: Make, as_array: bool) -> None:
    loader = load(make("p=0.5"))
    dataset = loader.dataset
    tensor_of = dataset.transform
    assert tensor_of is not None
    if as_array:  # as transforms of timm's ToNumpy give them
        dataset.transform = lambda image: tensor_of(image).numpy()
    for images, _ in loader.loader:
        assert images.dtype == torch.uint8
        assert images.shape == (4, 3, 32, 32)


def test_augmentation_options_do_not_touch_stored_views(make: Make) -> None:
    strong = {"auto_augment": "rand-m9", "color_jitter": 0.9, "hflip": 1.0, "vflip": 1.0}
    strong |= {"grayscale_prob": 1.0, "scale": (0.1, 0.2), "no_aug": False}
    plain, augmented = load(make()).dataset, load(make(), **strong).dataset
    for i in range(len(plain)):
        assert torch.equal(plain[i][0], augmented[i][0])


@pytest.mark.parametrize("prefetcher", [True, False])
def test_random_erasing_is_left_out_and_said_so(
    make: Make, prefetcher: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for options in ("p=1", "p=1e-9"):
        caplog.clear()
        with caplog.at_level(logging.INFO, "timm_ext"):
            loader = load(make(options), use_prefetcher=prefetcher, re_prob=1.0, re_mode="const")
        assert [r for r in caplog.messages if "--reprob 1.0 is not used" in r] != []
        assert "RandomErasing" not in repr(loader.dataset.transform)
        assert getattr(loader, "random_erasing", None) is None


def test_timms_loader_settings_are_kept(make: Make) -> None:
    loader = load(make(), num_workers=1, pin_memory=True, persistent_workers=True)
    assert isinstance(loader.loader, DataLoader)
    assert loader.loader.persistent_workers
    assert loader.loader.pin_memory
    assert loader.loader.drop_last
    assert len(loader) == 3


def fingerprints(loader: Any, epoch: int) -> dict[tuple[int, ...], float]:
    """Sum of each image and its targets, without regard to order."""
    loader.dataset.set_epoch(epoch)
    found = {}
    for images, targets in loader:
        for image, ids, probs in zip(images, targets.ids, targets.probs, strict=True):
            key = (*ids.tolist(), *(probs * 4096).int().tolist())
            found[key] = image.double().sum().item()
    return found


@pytest.mark.parametrize("prefetcher", [True, False])
def test_epochs_reach_persistent_workers_and_workers_change_nothing(
    make: Make, prefetcher: bool
) -> None:
    alone = load(make("p=0.9&seed=3"), use_prefetcher=prefetcher)
    helped = load(make("p=0.9&seed=3"), use_prefetcher=prefetcher, num_workers=2)
    seen = []
    for epoch in (0, 1, 5, 0):
        one, two = fingerprints(alone, epoch), fingerprints(helped, epoch)
        assert one.keys() == two.keys()
        seen.append(one)
    assert seen[0].keys() != seen[1].keys()
    assert seen[1].keys() != seen[2].keys()
    assert seen[0].keys() == seen[3].keys()


def test_loaders_of_one_dataset_share_the_epoch_and_nothing_else(make: Make) -> None:
    dataset = make("p=1")
    alone = load(make("p=1"), use_prefetcher=False)
    small = load(dataset, use_prefetcher=False, num_workers=1)
    large = load(dataset, use_prefetcher=False, input_size=(3, 48, 48), vflip=1.0)
    assert dataset.postprocess is None
    assert dataset.transform is None
    assert "Vertical" in repr(large.dataset.transform)
    assert "Vertical" not in repr(small.dataset.transform)
    before = fingerprints(small, 0)
    large.dataset.set_epoch(3)
    assert dataset.epoch == small.dataset.epoch == 3
    dataset.set_epoch(5)
    assert next(iter(large))[0].shape == (4, 3, 48, 48)
    assert next(iter(small))[0].shape == (4, 3, 32, 32)
    after = fingerprints(small, dataset.epoch)
    assert after.keys() == fingerprints(alone, 5).keys()
    assert after.keys() != before.keys()


def test_another_seed_chooses_others(make: Make) -> None:
    one, other = (fingerprints(load(make(seed=seed)), 0) for seed in (1, 2))
    assert one.keys() != other.keys()


def test_same_batches_for_the_same_seed(make: Make) -> None:
    runs = []
    for workers in (0, 2, 2):
        loader = load(make(), num_workers=workers)
        torch.manual_seed(0)
        runs.append([(images, targets.ids) for images, targets in loader])
    for other in runs[1:]:
        for (images, ids), (expected, expected_ids) in zip(other, runs[0], strict=True):
            assert torch.equal(images, expected)
            assert torch.equal(ids, expected_ids)


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """What DistributedSampler asks for, without processes."""
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: 2)

    def become(rank: int) -> None:
        monkeypatch.setattr(torch.distributed, "get_rank", lambda group=None: rank)

    return become


@pytest.mark.parametrize("told", ["dataset", "both"])
def test_ranks_share_the_images_and_shuffle_anew_each_epoch(
    make: Make, two_ranks: Callable[[int], None], told: str
) -> None:
    def order(rank: int, epoch: int) -> list[int]:
        two_ranks(rank)
        loader = load(make(), distributed=True, batch_size=3)
        loader.dataset.set_epoch(epoch)
        if told == "both":
            loader.sampler.set_epoch(epoch)
        return [i for batch in loader.loader.batch_sampler for i in batch]

    for epoch in (0, 1):
        assert sorted(order(0, epoch) + order(1, epoch)) == list(range(12))
    assert order(0, 0) != order(0, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_aug_repeats": 3}, "--aug-repeats"),
        ({"num_aug_splits": 2}, "--aug-splits"),
        ({"use_multi_epochs_loader": True}, "--use-multi-epochs-loader"),
        pytest.param(
            {"input_size_choices": [24, 32]},
            "--train-img-sizes",
            marks=pytest.mark.skipif(
                "input_size_choices"
                not in signature(timm_ext.loader.timm_create_loader).parameters,
                reason="this timm has no scheduled sizes",
            ),
        ),
        ({"input_size": (1, 32, 32)}, "--in-chans"),
        ({"collate_fn": FastCollateMixup(num_classes=3)}, "--mixup and --cutmix"),
        ({"collate_fn": fast_collate}, "collate_fn"),
        ({"is_training": False}, "is_training=True"),
        ({"tf_preprocessing": True}, "tf_preprocessing"),
    ],
)
def test_refusals(make: Make, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedOptionError) as error:
        load(make(), **options)
    assert said in str(error.value)


def test_other_datasets_are_timms_business(data_dir: Path) -> None:
    dataset = create_dataset("", str(data_dir), "train", is_training=True)
    assert type(dataset) is ImageDataset
    loader = load(dataset, re_prob=0.5, auto_augment="rand-m9", persistent_workers=False)
    assert loader.random_erasing is not None
    assert loader.loader.collate_fn is fast_collate
    images, labels = next(iter(loader))
    assert images.shape == (4, 3, 32, 32)
    assert labels.dtype == torch.int64


def test_an_epoch_without_a_batch_is_refused(make: Make) -> None:
    with pytest.raises(UnsupportedOptionError, match=r"--batch-size 13 is more than the 12 images"):
        load(make(), batch_size=13)


@pytest.mark.parametrize("version", ["1.1.0rc1", "1.0.31.dev0", "2.0"])
def test_versions_before_a_release(
    make: Make, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr("timm.__version__", version)
    assert len(load(make()))
