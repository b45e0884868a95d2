"""The loaders: which image with which view in which iteration and process."""

from __future__ import annotations

import inspect
import itertools
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.datasets import ImageFolder

pytest.importorskip("detectron2")

from detectron2.config import get_cfg
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from hypothesis import given
from hypothesis import strategies as st

from d2_ext import (
    ClassificationEvaluator,
    ConfigError,
    ReinforcedClassifier,
    ReinforcedLoader,
    SimpleFeaturePyramid,
    TimmBackbone,
    add_dr_plugins_config,
    build_classification_test_loader,
    build_reinforced_train_loader,
)
from d2_ext.sampler import EpochBatches
from dr_plugins import ImageSource, ReinforcedDataset
from dr_plugins.errors import DatasetMismatchError
from dr_plugins.images.sources import open_source
from tests.stores import on_the_hub
from tests.tiny import make_photographs, make_set

Shards = Callable[..., Path]


@given(
    size=st.integers(8, 60),
    world=st.integers(1, 4),
    per_process=st.integers(1, 2),
    epoch=st.integers(0, 5),
    seed=st.integers(0, 9),
)
def test_processes_share_an_epoch_out_and_no_image_comes_twice(
    size: int, world: int, per_process: int, epoch: int, seed: int
) -> None:
    batches = []
    for rank in range(world):
        sampler = EpochBatches(size, world * per_process, seed=seed, rank=rank, world_size=world)
        sampler.go_to(epoch * sampler.iterations_per_epoch)
        assert sampler.epoch == epoch
        batches.append(list(sampler))
    seen = [index for batch in itertools.chain(*batches) for index in batch]
    assert len(seen) == len(set(seen)) == size // (world * per_process) * world * per_process
    assert set(seen) <= set(range(size))
    assert {len(batch) for batch in itertools.chain(*batches)} == {per_process}


def test_any_iteration_can_be_the_first() -> None:
    sampler = EpochBatches(10, 3, seed=1)
    whole = []
    for epoch in range(3):
        sampler.go_to(3 * epoch)
        whole += list(sampler)
    assert len({tuple(sorted(batch)) for batch in whole}) > 3
    for start in range(9):
        sampler.go_to(start)
        rest = whole[start : 3 * (start // 3 + 1)]
        assert (list(sampler), len(sampler)) == (rest, len(rest))


@pytest.mark.parametrize(
    ("size", "batch", "world", "text"),
    [(10, 3, 2, "multiple of the number of processes, 2"), (2, 4, 1, "2 images"), (2, 0, 1, "0")],
)
def test_batches_that_do_not_fit(size: int, batch: int, world: int, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as error:
        EpochBatches(size, batch, world_size=world)
    assert "SOLVER.IMS_PER_BATCH" in str(error.value)


def take(loader: ReinforcedLoader, count: int, start: int = 0) -> list[Any]:
    with EventStorage(start):
        return list(itertools.islice(iter(loader), count))


def assert_same(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one["images"], other["images"])
        assert torch.equal(one["targets"].dense(), other["targets"].dense())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_those_of_the_dataset(
    num_workers: int, photographs: Path, shard_sets: Shards
) -> None:
    loader = build_reinforced_train_loader(
        str(photographs), shard_sets(), total_batch_size=5, seed=3, num_workers=num_workers
    )
    assert loader.iterations_per_epoch == 2
    found = take(loader, 5)
    dataset = ReinforcedDataset(ImageFolder(str(photographs)), shard_sets(), seed=3)
    sampler = EpochBatches(12, 5, seed=3)
    expected = []
    for iteration in range(5):
        dataset.set_epoch(sampler.go_to(iteration))
        images, targets = dataset.collate(dataset.__getitems__(next(iter(sampler))))
        expected.append({"images": images, "targets": targets})
    assert_same(found, expected)
    assert found[0]["images"].dtype == torch.uint8
    assert found[0]["targets"].temperature == 1.0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unfinished_views_become_those_of_the_workers(
    num_workers: int, photographs: Path, shard_sets: Shards
) -> None:
    options = {"total_batch_size": 5, "size": 24, "num_workers": num_workers}
    late, early = (
        take(
            build_reinforced_train_loader(
                str(photographs), shard_sets("randaug_mixing"), defer=defer, **options
            ),
            4,
        )
        for defer in (True, False)
    )
    classifier = ReinforcedClassifier("test_resnet", num_classes=3)
    for batch, expected in zip(late, early, strict=True):
        assert torch.equal(batch["images"].to(classifier.device), expected["images"])
        # Equal pixels may lie otherwise in memory, and are then added up in another order.
        found = classifier(batch)["loss_kd"]
        torch.testing.assert_close(found, classifier(expected)["loss_kd"])


def test_a_set_on_the_hub(
    photographs: Path, shard_sets: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = shutil.copytree(shard_sets(), tmp_path / "set")
    near = build_reinforced_train_loader(photographs, here, total_batch_size=4)
    with on_the_hub(monkeypatch, here) as address:
        far = build_reinforced_train_loader(str(photographs), address, total_batch_size=4)
        assert_same(take(far, 3), take(near, 3))


def test_images_of_a_list_are_left_out(
    photographs: Path, shard_sets: Shards, tmp_path: Path
) -> None:
    skip = tmp_path / "skip.txt"
    skip.write_text("n01/n01_2.JPEG\nn02/n02_2.JPEG\n")
    cfg = get_cfg()
    add_dr_plugins_config(cfg)
    cfg.merge_from_list(["REINFORCED.SHARDS", str(shard_sets()), "REINFORCED.SKIP", str(skip)])
    cfg.merge_from_list(["DATASETS.TRAIN", (str(photographs),), "SOLVER.IMS_PER_BATCH", 5])
    cfg.merge_from_list(["DATALOADER.NUM_WORKERS", 0])
    loader = build_reinforced_train_loader(cfg)
    assert len(loader.dataset) == 10
    assert loader.batches.iterations_per_epoch == 2


def test_unfinished_views_are_not_resized(photographs: Path, shard_sets: Shards) -> None:
    with pytest.raises(ConfigError, match=r"REINFORCED.*size=32.*\(24, 24\).*defer"):
        build_reinforced_train_loader(
            str(photographs), shard_sets(), total_batch_size=4, size=32, defer=True
        )


@pytest.mark.parametrize("start", [1, 2, 5])
def test_a_resumed_loader_goes_on_with_what_comes_next(
    start: int, photographs: Path, shard_sets: Shards
) -> None:
    loader = build_reinforced_train_loader(str(photographs), shard_sets(), total_batch_size=4)
    assert_same(take(loader, 3, start), take(loader, 3 + start)[start:])


def test_an_iterator_asked_for_early_still_begins_where_training_does(
    photographs: Path, shard_sets: Shards
) -> None:
    loader = build_reinforced_train_loader(str(photographs), shard_sets(), total_batch_size=4)
    early = iter(loader)
    with EventStorage(4):
        found = next(early)
    assert_same([found], take(loader, 1, 4))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_two_iterators_do_not_disturb_each_other(
    num_workers: int, photographs: Path, shard_sets: Shards
) -> None:
    loader = build_reinforced_train_loader(
        str(photographs), shard_sets(), total_batch_size=4, num_workers=num_workers
    )
    expected = take(loader, 8)
    first, second, found, others = iter(loader), iter(loader), [], []
    for iteration in range(4):
        with EventStorage(iteration):
            found.append(next(first))
        with EventStorage(iteration + 4):
            others.append(next(second))
    assert_same(found, expected[:4])
    assert_same(others, expected[4:])


def test_processes_see_other_images(
    photographs: Path, shard_sets: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = take(
        build_reinforced_train_loader(str(photographs), shard_sets(), total_batch_size=6), 1
    )[0]
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        loader = build_reinforced_train_loader(str(photographs), shard_sets(), total_batch_size=6)
        (part,) = take(loader, 1)
        assert torch.equal(part["images"], whole["images"][rank::2])


def test_another_size_for_the_student(photographs: Path, shard_sets: Shards) -> None:
    loader = build_reinforced_train_loader(
        str(photographs), shard_sets(), total_batch_size=2, size=16, p=0.5
    )
    assert take(loader, 1)[0]["images"].shape == (2, 3, 16, 16)
    assert pickle.loads(pickle.dumps(loader.dataset)).size == (16, 16)


def config(**values: Any) -> Any:
    cfg = get_cfg()
    add_dr_plugins_config(cfg)
    cfg.DATALOADER.NUM_WORKERS = 0
    for key, value in values.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def test_loaders_from_yacs(photographs: Path, shard_sets: Shards) -> None:
    cfg = config(
        DATASETS__TRAIN=(str(photographs),),
        REINFORCED__SHARDS=str(shard_sets()),
        REINFORCED__P=0.75,
        REINFORCED__SEED=7,
        REINFORCED__DENSIFY="zeros",
        REINFORCED__CHECK="warn",
        SOLVER__IMS_PER_BATCH=4,
    )
    loader = build_reinforced_train_loader(cfg)
    dataset = loader.dataset
    assert (dataset.p, dataset.seed, dataset.densify, dataset.check) == (0.75, 7, "zeros", "warn")
    assert (loader.batches.total_batch_size, loader.batches.seed) == (4, 7)
    test = build_classification_test_loader(cfg, str(photographs))
    batch = next(iter(test))
    assert batch["images"].shape == (12, 3, 24, 24)  # the size of the stored views
    assert batch["labels"].tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"DATASETS__TRAIN": ()}, "DATASETS.TRAIN"),
        ({"DATASETS__TRAIN": ("a", "b")}, "DATASETS.TRAIN"),
        ({"DATASETS__TRAIN": ("a",)}, "REINFORCED.SHARDS is empty"),
    ],
)
def test_missing_settings(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build_reinforced_train_loader(config(**values))


def test_keys_that_were_not_added() -> None:
    with pytest.raises(ConfigError, match="add_dr_plugins_config"):
        build_reinforced_train_loader(get_cfg())


@pytest.mark.parametrize(("interpolation", "resample"), [("bilinear", 2), ("bicubic", 3)])
def test_evaluation_views(photographs: Path, interpolation: str, resample: int) -> None:
    images = ImageFolder(str(photographs))
    loader = build_classification_test_loader(
        images, size=14, crop_pct=0.7, interpolation=interpolation, batch_size=5
    )
    assert [len(batch["labels"]) for batch in loader] == [5, 5, 2]
    found = next(iter(loader))["images"][3]
    image = ImageSource(images).load(3)[0]
    scale = 20 / min(image.size)
    resized = image.resize((int(image.width * scale), 20), resample=resample)
    left, top = round((resized.width - 14) / 2.0), 3
    expected = resized.crop((left, top, left + 14, top + 14))
    assert found.permute(1, 2, 0).numpy().tobytes() == expected.tobytes()


def test_evaluation_images_of_other_classes(shard_sets: Shards, tmp_path: Path) -> None:
    folder = make_photographs(tmp_path / "val", 1, ("n01", "n02", "n04"))
    with pytest.raises(DatasetMismatchError, match="n04"):
        build_classification_test_loader(str(folder), shards=str(shard_sets()))
    build_classification_test_loader(open_source(str(folder)))


def test_evaluation_images_that_are_not_there(tmp_path: Path) -> None:
    for name in ("torchvision:NoSuch:data", f"torchvision:CIFAR10:{tmp_path}", "torchvision:odd"):
        with pytest.raises(DatasetMismatchError, match=f"cannot open images '{name}'"):
            build_classification_test_loader(name)


@pytest.mark.parametrize(
    ("name", "value"), [("crop_pct", 0.0), ("crop_pct", 1.2), ("interpolation", "cubic")]
)
def test_evaluation_settings_that_are_none(photographs: Path, name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name.upper()} is {value!r}"):
        build_classification_test_loader(str(photographs), **{name: value})


def test_a_set_that_leaves_out_images(tmp_path: Path) -> None:
    root = make_photographs(tmp_path / "train")
    (root / "n01" / "n01_2.JPEG").write_bytes(b"")
    shards = make_set(tmp_path / "set", root, left_out=["n01/n01_2.JPEG"])
    loader = build_reinforced_train_loader(str(root), str(shards), total_batch_size=11)
    (batch,) = itertools.islice(loader, 1)
    assert len(batch["images"]) == 11


def test_a_class_map_numbers_the_folders(
    photographs: Path, shard_sets: Shards, tmp_path: Path
) -> None:
    names = sorted(folder.name for folder in photographs.iterdir())
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(reversed(names)))
    cfg = get_cfg()
    add_dr_plugins_config(cfg)
    cfg.REINFORCED.CLASS_MAP = str(classes)
    for loader in (
        build_classification_test_loader(str(photographs), class_map=str(classes)),
        build_classification_test_loader(cfg, str(photographs)),
    ):
        assert loader.dataset.source.class_names == names[::-1]
    cfg.REINFORCED.SHARDS = str(shard_sets())
    cfg.DATASETS.TRAIN, cfg.SOLVER.IMS_PER_BATCH = (str(photographs),), 4
    # The set was made with the folders in the order of their names.
    with pytest.raises(DatasetMismatchError):
        build_reinforced_train_loader(cfg)
    classes.write_text("\n".join(names))
    assert build_reinforced_train_loader(cfg).dataset.source.class_names == names


def test_resized_views_are_antialiased(photographs: Path, shard_sets: Shards) -> None:
    options = {"total_batch_size": 4, "p": 1.0}
    (whole,) = take(build_reinforced_train_loader(str(photographs), shard_sets(), **options), 1)
    size = whole["images"].shape[-1] // 3
    small = build_reinforced_train_loader(str(photographs), shard_sets(), size=size, **options)
    (resized,) = take(small, 1)
    expected = torch.nn.functional.interpolate(
        whole["images"].float(), (size, size), mode="bilinear", antialias=True
    )
    assert resized["images"].dtype == torch.uint8
    assert (resized["images"].float() - expected).abs().max() <= 1


DEFAULTS = {
    build_reinforced_train_loader: {
        **{"class_map": None, "p": 0.99, "densify": "smooth", "seed": 0, "check": "error"},
        **{"size": None, "defer": False, "skip": "", "num_workers": 0},
    },
    build_classification_test_loader: {
        **{"shards": None, "class_map": None, "batch_size": 64, "size": 224},
        **{"crop_pct": 0.875, "interpolation": "bilinear", "num_workers": 0},
    },
    ReinforcedClassifier.__init__: {
        **{"num_classes": 1000, "pixel_mean": None, "pixel_std": None, "norm": ""},
        **{"loss": "KDLoss", "temperature": 1.0, "label_weight": 0.0, "input_format": "RGB"},
        **{"grad_checkpointing": False},
    },
    TimmBackbone.__init__: {
        **{"out_features": None, "freeze_at": 0, "norm": "", "grad_checkpointing": False}
    },
    SimpleFeaturePyramid.__init__: {"out_channels": 256},
    ClassificationEvaluator.__init__: {"bins": 15},
    EpochBatches.__init__: {"seed": 0, "rank": 0, "world_size": 1},
    ReinforcedLoader.__init__: {"num_workers": 0},
}


@pytest.mark.parametrize("function", DEFAULTS, ids=lambda each: each.__qualname__)
def test_defaults_of_public_arguments(function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters.values()
    found = {each.name: each.default for each in parameters if each.default is not each.empty}
    assert found == DEFAULTS[function]


def test_defaults_of_the_keys() -> None:
    cfg = get_cfg()
    add_dr_plugins_config(cfg)
    assert dict(cfg.REINFORCED) == {
        **{"SHARDS": "", "CLASS_MAP": "", "P": 0.99, "DENSIFY": "smooth", "SEED": 0},
        **{"CHECK": "error", "SIZE": 0, "DEFER": False, "SKIP": "", "CROP_PCT": 0.875},
        **{"INTERPOLATION": "bilinear", "LOSS": "KDLoss", "TEMPERATURE": 1.0, "LABEL_WEIGHT": 0.0},
    }
    assert dict(cfg.MODEL.DR_TIMM) == {
        **{"NAME": "resnet50", "OUT_FEATURES": [], "NORM": "", "GRAD_CHECKPOINTING": False},
        **{"NUM_CLASSES": 1000, "OPTIONS": {}},
    }
