from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional as F

from dr_plugins import ReinforcedDataset, ShardSet
from dr_plugins.errors import (
    DatasetMismatchError,
    ImageChangedError,
)
from dr_plugins.images.sources import ImageSource
from tests.dr_plugins.training.samples import flat, one_hot
from tests.tiny import CLASSES, TinyTeacher, make_photographs, make_set, photograph
from tests.tiny import policy as small

Sets = Callable[..., Path]
SAMPLES = 6


# --- what a sample is -----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["pil", "tensor"])
@pytest.mark.parametrize("name", ["rrc", "randaug", "mixing", "cifar"])
def test_a_sample_is_a_stored_reinforcement(
    make: Any, photographs: Path, name: str, backend: str
) -> None:
    train = make(name, backend, p=1.0)
    shards, policy = train.shards, train.policy
    for index, key in enumerate(train.source.keys):
        view, target = train[index]
        assert (view.dtype, view.shape) == (torch.uint8, (3, 24, 24))
        image = Image.open(photographs / key).convert("RGB")
        found = []
        for sample in range(SAMPLES):
            record = shards.__getitems__([(key, sample)])
            (params,) = policy.decode(record)
            partner = None
            if params.partner is not None:
                partner = Image.open(photographs / shards.keys[params.partner]).convert("RGB")
            if torch.equal(policy.apply(image, params, partner), view):
                found.append((record[0], params))
        assert any(
            record["ids"].tolist() == target.ids.tolist()
            and record["probs"].tolist() == target.probs.tolist()
            for record, _ in found
        )
        label = CLASSES.index(key[:3])
        assert target.labels == (label if found[0][1].partner is None else -1)


def test_each_record_comes_once_in_s_epochs(make: Any) -> None:
    train = make("rrc", p=1.0, seed=11)
    for first in (0, SAMPLES, 7 * SAMPLES):
        seen: list[set[Any]] = [set() for _ in range(12)]
        for epoch in range(first, first + SAMPLES):
            train.set_epoch(epoch)
            for index, sample in enumerate(train.__getitems__(range(12))):
                seen[index].add(flat(sample))
        assert [len(s) for s in seen] == [SAMPLES] * 12


def test_orders_differ_between_images_rounds_and_seeds(make: Any) -> None:
    def walk(seed: int, first: int) -> list[tuple[Any, ...]]:
        train = make("rrc", p=1.0, seed=seed)
        epochs = []
        for epoch in range(first, first + SAMPLES):
            train.set_epoch(epoch)
            epochs.append([flat(s) for s in train.__getitems__(range(12))])
        return epochs

    assert walk(0, 0) == walk(0, 0)
    assert walk(0, 0) != walk(0, SAMPLES)
    assert walk(0, 0) != walk(1, 0)


def test_single_access_equals_batches(make: Any) -> None:
    train = make("randaug_mixing", p=0.6)
    for epoch in range(3):
        train.set_epoch(epoch)
        single = [flat(train[i]) for i in range(12)]
        assert [flat(s) for s in train.__getitems__(range(12))] == single
        order = [3, 3, 11, 0, 7]
        assert [flat(s) for s in train.__getitems__(order)] == [single[i] for i in order]
        assert [flat(s) for s in train.__getitems__(np.array(order))] == [single[i] for i in order]
        assert [flat(s) for s in train.__getitems__(torch.tensor(order))] == [
            single[i] for i in order
        ]


def test_the_sequence_protocol(make: Any) -> None:
    train = make(p=0.5)
    assert (len(train), len(train.__getitems__([]))) == (12, 0)
    assert [flat(s) for s in train] == [flat(train[i]) for i in range(12)]
    assert flat(train[-1]) == flat(train[11])
    for index in (12, -13):
        with pytest.raises(IndexError):
            train[index]
    assert repr(train).startswith("ReinforcedDataset(ImageSource(ImageFolder, 12 images), ShardSet")


# --- the plain share ------------------------------------------------------------------------------


def test_all_plain(make: Any, photographs: Path) -> None:
    train = make("mixing", p=0.0, transform=F.pil_to_tensor)
    for index, sample in enumerate(train):
        assert one_hot(sample)
        assert sample[1].labels == index // 4
        with Image.open(photographs / train.source.keys[index]) as image:
            assert torch.equal(sample[0], F.pil_to_tensor(image))


def test_plain_images_are_cropped_by_default(make: Any) -> None:
    train = make("rrc", p=0.0)
    views = set()
    for epoch in range(8):
        train.set_epoch(epoch)
        view, target = train[2]
        assert (view.dtype, view.shape, target.ids.tolist()) == (torch.uint8, (3, 24, 24), [0, -1])
        views.add(view.numpy().tobytes())
    assert len(views) == 8
    train.set_epoch(3)
    other = make("rrc", p=0.0)
    other.set_epoch(3)
    assert flat(other[2]) == flat(train[2])
    assert flat(make("rrc", p=0.0, seed=1)[2]) != flat(make("rrc", p=0.0)[2])


def test_all_reinforced(make: Any) -> None:
    train = make("rrc", p=1.0)
    for epoch in range(SAMPLES):
        train.set_epoch(epoch)
        assert not any(one_hot(sample) for sample in train)


@pytest.mark.parametrize("p", [0.5, 0.9])
def test_the_share_of_plain_images(make: Any, p: float) -> None:
    def is_plain(seed: int) -> np.ndarray:
        train = make("rrc", p=p, seed=seed, check="off", transform=lambda _: torch.zeros(1))
        table = []
        for epoch in range(60):
            train.set_epoch(epoch)
            table.append([view.numel() == 1 for view, _ in train.__getitems__(range(12))])
        return np.array(table)

    plain = is_plain(3)
    spread = np.sqrt(p * (1 - p) / plain.size)
    assert plain.mean() == pytest.approx(1 - p, abs=4 * spread)
    assert plain.mean(0).max() < 1 - p + 5 * np.sqrt(p * (1 - p) / 60), "not the same images always"
    assert (is_plain(3) == plain).all()
    assert (is_plain(4) != plain).mean() == pytest.approx(2 * p * (1 - p), abs=8 * spread)


def test_reinforced_images_do_not_depend_on_the_share(make: Any) -> None:
    full, part = make("rrc", p=1.0), make("rrc", p=0.6)
    same = 0
    for index in range(12):
        if not one_hot(part[index]):
            assert flat(part[index]) == flat(full[index])
            same += 1
    assert 2 < same < 12


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_which_images_are_reinforced(make: Any, p: float) -> None:
    train = make("rrc", p=p, transform=lambda image: torch.zeros(1))
    for epoch in range(3):
        train.set_epoch(epoch)
        plain = [len(train[i][0].flatten()) == 1 for i in range(len(train))]
        assert train.is_reinforced(range(len(train))).tolist() == [not value for value in plain]


def test_a_plain_image_needs_a_label(photographs: Path, shard_sets: Sets) -> None:
    images = ImageFolder(str(photographs), target_transform=lambda _: -1)
    with pytest.raises(DatasetMismatchError, match=r"'n01/n01_11\.JPEG' has no label.*set p=1"):
        ReinforcedDataset(images, shard_sets(), p=0.0)[0]
    assert ReinforcedDataset(images, shard_sets(), p=1.0)[0][1].labels == -1


def test_plain_images_are_checked_too(tmp_path: Path, shard_sets: Sets) -> None:
    root = make_photographs(tmp_path / "own")
    photograph(0, 9, 9).save(root / "n01" / "n01_11.JPEG")
    with pytest.raises(ImageChangedError, match="9x9"):
        ReinforcedDataset(ImageFolder(str(root)), shard_sets(), p=0.0)[0]


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize("densify", ["smooth", "zeros"])
def test_densify_reaches_the_targets(tmp_path: Path, photographs: Path, densify: str) -> None:
    unsure = TinyTeacher()
    unsure.weights.data.mul_(0.1)
    out = make_set(tmp_path, photographs, policy_=small("rrc"), teacher=unsure)
    train = ReinforcedDataset(ImageFolder(str(photographs)), out, p=1.0, densify=densify)
    (_, targets) = train.collate([train[0], train[1]])
    assert targets.densify == train[0][1].densify == densify
    missing = 1 - targets.probs.sum(1)
    assert missing.min() > 0.01
    unlisted = targets.dense().scatter(1, targets.ids, 0.0).sum(1)
    assert unlisted == pytest.approx(missing if densify == "smooth" else 0 * missing, abs=1e-6)


def test_postprocess_sees_views_and_default_plain_images(make: Any) -> None:
    def halve(view: torch.Tensor) -> torch.Tensor:
        assert (view.dtype, view.shape) == (torch.uint8, (3, 24, 24))
        return view[:, ::2, ::2].float()

    train, reference = make(p=0.5, postprocess=halve), make(p=0.5)
    for sample, plain in zip(train, reference, strict=True):
        assert torch.equal(sample[0], plain[0][:, ::2, ::2].float())
    transformed = make(p=0.0, postprocess=halve, transform=lambda image: torch.tensor(image.size))
    assert transformed[0][0].tolist() == [56, 49]


def test_a_transform_from_torchvision(make: Any) -> None:
    def resize(image: Image.Image) -> torch.Tensor:
        return F.pil_to_tensor(image.resize((24, 24)))

    train = make(p=0.5, transform=resize)
    views, targets = next(iter(DataLoader(train, 12, collate_fn=train.collate)))
    assert views.shape == (12, 3, 24, 24)
    assert len(targets) == 12


@pytest.mark.parametrize("defer", [False, True])
def test_floats_and_stored_views_are_not_mixed(make: Any, defer: bool) -> None:
    train = make(p=0.5, transform=lambda image: F.to_tensor(image.resize((24, 24))), defer=defer)
    loader = DataLoader(train, 12, collate_fn=train.collate)
    with pytest.raises(TypeError, match=r"different dtypes: .*`transform` makes plain images and"):
        next(iter(loader))


def test_torchs_own_collate_is_refused_as_the_guide_says(make: Any) -> None:
    message = r"default_collate: batch must contain tensors.*found <class 'dr_plugins\.targets\.Sp"
    with pytest.raises(TypeError, match=message):
        next(iter(DataLoader(make(p=0.5), 12)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 1.01}, r"p is 1\.01"),
        ({"p": -0.1}, r"p is -0\.1"),
        ({"p": float("nan")}, "p is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"densify": "ones"}, "densify is 'ones'; expected one of smooth, zeros"),
        ({"check": "never"}, "check is 'never'; expected one of error, warn, off"),
    ],
)
def test_options_out_of_range(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_extreme_seeds_and_epochs(make: Any) -> None:
    train = make("rrc", p=0.5, seed=2**63 - 1)
    train.set_epoch(2**40)
    assert train.epoch == 2**40
    assert len(train[0]) == 2
    with pytest.raises(ValueError, match="epoch is -1"):
        train.set_epoch(-1)


def test_sets_and_sources_may_be_given_ready_made(photographs: Path, shard_sets: Sets) -> None:
    images = ImageFolder(str(photographs))
    by_path = ReinforcedDataset(images, str(shard_sets()))
    ready = ReinforcedDataset(ImageSource(images), ShardSet(shard_sets()))
    assert [flat(s) for s in ready] == [flat(s) for s in by_path]
    assert ready.num_classes == 3


def test_keys_may_be_given(photographs: Path, shard_sets: Sets) -> None:
    folder = ImageFolder(str(photographs))
    pairs = [folder[i] for i in (7, 2)]
    keys = [ImageSource(folder).keys[i] for i in (7, 2)]
    own = ReinforcedDataset(pairs, shard_sets(), keys=keys)
    whole = ReinforcedDataset(folder, shard_sets())
    assert [flat(s) for s in own] == [flat(whole[7]), flat(whole[2])]
