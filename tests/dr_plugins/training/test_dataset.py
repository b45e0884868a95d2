from __future__ import annotations

import copy
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, DistributedSampler, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional as F

from dr_plugins import KDLoss, ReinforcedDataset, ShardSet, SparseTargets
from dr_plugins.errors import (
    DatasetMismatchError,
    FormatError,
    ImageChangedError,
    ImageReadError,
    UnknownImageError,
)
from dr_plugins.images.sources import ImageSource
from tests.tiny import CLASSES, TinyTeacher, make_photographs, make_set, photograph
from tests.tiny import policy as small

Sets = Callable[..., Path]
SAMPLES = 6


@pytest.fixture
def make(photographs: Path, shard_sets: Sets) -> Callable[..., ReinforcedDataset]:
    def build(name: str = "randaug", backend: str = "pil", **options: Any) -> ReinforcedDataset:
        images = ImageFolder(str(photographs))
        return ReinforcedDataset(images, shard_sets(name, backend), **options)

    return build


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


# --- images that do not fit the set ---------------------------------------------------------------


def test_an_epoch_of_its_own(make: Callable[..., ReinforcedDataset]) -> None:
    train = make(p=1.0)
    train.set_epoch(2)
    other = train.with_own_epoch()
    assert other.epoch == 2
    other.set_epoch(1)
    assert (train.epoch, other.epoch) == (2, 1)
    found = flat(other[0])
    train.set_epoch(1)
    assert flat(train[0]) == found
    assert other.shards is train.shards


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """Photographs of which one has other pixels, at its old size."""
    root = make_photographs(tmp_path / "own")
    with Image.open(root / "n02" / "n02_4.JPEG") as image:
        width, height = image.size
    photograph(99, height, width).save(root / "n02" / "n02_4.JPEG")
    return root


def run_epochs(train: ReinforcedDataset) -> int:
    for epoch in range(SAMPLES):
        train.set_epoch(epoch)
        train.__getitems__(range(len(train)))
    return epoch


def test_changed_content_comes_up_within_s_epochs(changed: Path, shard_sets: Sets) -> None:
    train = ReinforcedDataset(ImageFolder(str(changed)), shard_sets("rrc"), p=1.0)
    with pytest.raises(ImageChangedError, match=r"'n02/n02_4\.JPEG' does not replay"):
        run_epochs(train)


def test_changed_content_can_be_a_warning(changed: Path, shard_sets: Sets) -> None:
    images = ImageFolder(str(changed))
    train = ReinforcedDataset(images, shard_sets("rrc"), p=1.0, check="warn")
    with pytest.warns(UserWarning, match=r"'n02/n02_4\.JPEG' does not replay") as caught:
        run_epochs(train)
    assert len(caught) == 1


def test_changed_content_can_be_ignored(changed: Path, shard_sets: Sets) -> None:
    images = ImageFolder(str(changed))
    train = ReinforcedDataset(images, shard_sets("rrc"), p=1.0, check="off")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_epochs(train) == SAMPLES - 1


@pytest.mark.parametrize("check", ["error", "warn", "off"])
def test_another_size_is_always_an_error(tmp_path: Path, shard_sets: Sets, check: str) -> None:
    root = make_photographs(tmp_path / "own")
    photograph(0, 41, 56).save(root / "n01" / "n01_2.JPEG")
    train = ReinforcedDataset(ImageFolder(str(root)), shard_sets(), p=1.0, check=check)
    index = list(train.source.keys).index("n01/n01_2.JPEG")
    with pytest.raises(ImageChangedError, match=r"'n01/n01_2\.JPEG' is 41x56 pixels, but 40x56"):
        train[index]


def test_an_unreadable_image_is_an_error_also_from_workers(
    tmp_path: Path, shard_sets: Sets
) -> None:
    root = make_photographs(tmp_path / "own")
    (root / "n03" / "n03_9.JPEG").write_bytes(b"")
    train = ReinforcedDataset(ImageFolder(str(root)), shard_sets())
    for workers in (0, 1):
        loader: Any = DataLoader(train, 4, num_workers=workers, collate_fn=train.collate)
        with pytest.raises(ImageReadError, match=r"n03/n03_9\.JPEG"):
            list(loader)


def test_an_image_without_reinforcement(tmp_path: Path, shard_sets: Sets) -> None:
    root = make_photographs(tmp_path / "own")
    photograph(0, 9, 9).save(root / "n01" / "extra.png")
    with pytest.raises(UnknownImageError, match=r"'n01/extra\.png'"):
        ReinforcedDataset(ImageFolder(str(root)), shard_sets())


def test_a_missing_set(tmp_path: Path, photographs: Path) -> None:
    with pytest.raises(FormatError, match=r"manifest\.json does not exist"):
        ReinforcedDataset(ImageFolder(str(photographs)), tmp_path / "nothing")


def test_a_damaged_record(tmp_path: Path, photographs: Path, shard_sets: Sets) -> None:
    directory = shutil.copytree(shard_sets("rrc"), tmp_path / "set")
    path = directory / "shard-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    train = ReinforcedDataset(ImageFolder(str(photographs)), directory, p=1.0)
    with pytest.raises(FormatError, match=r"a record of image .* is damaged"):
        run_epochs(train)


def test_labels_out_of_range(photographs: Path, shard_sets: Sets) -> None:
    images = ImageFolder(str(photographs), target_transform=lambda label: label + 3)
    with pytest.raises(DatasetMismatchError, match="has label 3, but the shard set has 3 classes"):
        ReinforcedDataset(images, shard_sets())[0]


def test_a_subset_lacks_the_partners(photographs: Path, shard_sets: Sets) -> None:
    images = Subset(ImageFolder(str(photographs)), [4])
    with pytest.raises(UnknownImageError, match=r"11 of the set's 12 images"):
        ReinforcedDataset(images, shard_sets("mixing"), p=1.0)
    assert len(ReinforcedDataset(images, shard_sets("randaug"))) == 1


# --- loaders --------------------------------------------------------------------------------------


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
