from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torchvision import datasets as vision

from dr_plugins import ReinforcedDataset
from dr_plugins.errors import DatasetMismatchError
from tests.timm_ext import fake_torchvision as fake
from tests.timm_ext.test_datasets import reinforce
from tests.tiny import make_set
from timm_ext import create_dataset, validation
from timm_ext.datasets import training_dataset

SAID = "training images"


@pytest.fixture
def train(data_dir: Path) -> ReinforcedDataset:
    return create_dataset("imagenet-plus", root=str(data_dir), split="train", is_training=True)


def test_validation_with_other_classes_is_refused(data_dir: Path, tmp_path: Path) -> None:
    first, *others = sorted((data_dir / "val").iterdir())
    for folder in others:
        shutil.copytree(folder, tmp_path / "val" / folder.name)
    assert len(create_dataset("imagenet-plus", str(tmp_path), "validation"))  # nothing is trained
    train = create_dataset("imagenet-plus", str(data_dir), "train", is_training=True)
    message = rf"validation images has {len(others)} classes.*'{first.name}'.*--class-map"
    with pytest.raises(DatasetMismatchError, match=message):
        create_dataset("imagenet-plus", str(tmp_path), "validation")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(folder.name for folder in (first, *others)))
    options: dict[str, Any] = {"split": "validation", "class_map": str(names)}
    assert len(create_dataset("imagenet-plus", str(tmp_path), **options))
    assert training_dataset() is train


@pytest.fixture
def own(data_dir: Path, tmp_path: Path) -> Path:
    """A data directory that may be changed."""
    return shutil.copytree(data_dir, tmp_path / "data")


def said(
    root: Path | str, caplog: pytest.LogCaptureFixture, split: str = "validation", **options: Any
) -> str:
    """What creating both datasets logs as a warning."""
    base = options.pop("base", "")
    shards = Path(root) / "reinforcements" / "imagenet-plus"
    name = f"reinforced?base={base}&shards={shards}" if base else "imagenet-plus"
    caplog.clear()
    train = create_dataset(name, root=str(root), split="train", is_training=True)
    create_dataset(name, root=str(root), split=split)
    assert training_dataset() is train
    return "".join(r.getMessage() for r in caplog.records if r.levelname == "WARNING")


@pytest.mark.parametrize("base", ["", "torch/image_folder"])
def test_separate_splits_are_fine(
    data_dir: Path, caplog: pytest.LogCaptureFixture, base: str
) -> None:
    for split in ("validation", "val"):
        assert said(data_dir, caplog, split, base=base) == ""


def rename(root: Path, to: str) -> None:
    (root / "val").rename(root / to)


def drop(root: Path) -> None:
    shutil.rmtree(root / "val")


def replace(root: Path, by: Callable[[str, str], Any]) -> None:
    """Some training images in the place of those to validate on."""
    drop(root)
    for file in sorted((root / "train").rglob("*.JPEG"))[::2]:
        there = root / "val" / file.relative_to(root / "train")
        there.parent.mkdir(parents=True, exist_ok=True)
        by(str(file), str(there))


def renamed(by: Callable[[str, str], Any]) -> Callable[[str, str], Any]:
    return lambda file, there: by(file, there.replace(".JPEG", "-val.JPEG"))


def other_image(file: str, there: str) -> None:
    Image.open(file).rotate(180).save(there)


@pytest.mark.parametrize(
    "change",
    [
        drop,
        lambda root: rename(root, "holdout"),
        lambda root: drop(root) or (root / "val").symlink_to(root / "train"),
        lambda root: drop(root) or (root / "val").symlink_to("train"),
        lambda root: replace(root, os.symlink),
        lambda root: replace(root, os.link),
        lambda root: replace(root, shutil.copyfile),
        lambda root: replace(root, renamed(os.symlink)),
        lambda root: replace(root, renamed(os.link)),
        lambda root: replace(root, renamed(shutil.copyfile)),
        # Other images of the same names, read after those for training.
        lambda root: shutil.move(replace(root, other_image) or root / "val", root / "xval"),
        # Links to a place with other names, from both splits.
        lambda root: (
            (root / "train").rename(root / "store"),
            (root / "train").symlink_to("store"),
            drop(root),
            (root / "val").symlink_to("store"),
        ),
    ],
    ids=[
        *("missing", "renamed", "linked", "relative-link", "file-links", "hard-links", "copies"),
        *("renamed-links", "renamed-hard-links", "renamed-copies", "others-of-the-names", "store"),
    ],
)
def test_training_images_are_recognised(
    own: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Path], Any]
) -> None:
    change(own)
    assert SAID in said(own, caplog)
    assert SAID in said(f"{own}/", caplog)


def test_copies_among_more_images_than_are_opened(
    own: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then those of some classes are compared; a class has 4 training images here."""
    replace(own, renamed(os.link))
    monkeypatch.setattr(validation, "_MOST_OPENED", 5)
    assert "2 of the 2 images" in said(own, caplog)


def test_other_ways_to_ask_for_them(
    own: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SAID in said(own, caplog, "train")
    assert SAID in said(own, caplog, "training")
    assert SAID in said(own, caplog, "test")
    drop(own)
    monkeypatch.chdir(own.parent)
    assert SAID in said("data", caplog)
    assert SAID in said("./data/../data", caplog)
    assert SAID in said("data", caplog, base="torch/image_folder", split="train")


def test_same_names_of_other_images_are_fine(own: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = [sorted((own / split).rglob("*.JPEG")) for split in ("train", "val")]
    for train, val in zip(*(sorted(f)[:2] for f in files), strict=True):
        val.rename(val.parent / train.name)
    assert said(own, caplog) == ""


def test_datasets_without_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = fake.make_cifar100(tmp_path / "data", monkeypatch)
    reinforce(vision.CIFAR100(root), root / "reinforcements" / "cifar100-plus", 3)
    train = create_dataset("cifar100-plus", str(root), "train", is_training=True)
    create_dataset("cifar100-plus", str(root), "validation")
    assert SAID not in caplog.text
    create_dataset("cifar100-plus", str(root), "train")
    assert SAID in caplog.text
    assert training_dataset() is train


def test_datasets_of_listed_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = fake.make_flowers102(tmp_path / "data", monkeypatch)
    reinforce(vision.Flowers102(root, "train"), root / "reinforcements" / "flowers102-plus", 102)
    train = create_dataset("flowers102-plus", str(root), "train", is_training=True)
    create_dataset("flowers102-plus", str(root), "test")
    assert SAID not in caplog.text
    create_dataset("flowers102-plus", str(root), "train")
    assert SAID in caplog.text
    assert training_dataset() is train


def test_a_set_that_leaves_out_images(own: Path, caplog: pytest.LogCaptureFixture) -> None:
    """timm lists them; they are left out, and the others are still compared with validation."""
    (own / "train" / "n01" / "n01_2.JPEG").write_bytes(b"")
    shards = own / "reinforcements" / "imagenet-plus"
    shutil.rmtree(shards)
    make_set(shards, own / "train", left_out=["n01/n01_2.JPEG"])
    shutil.rmtree(own / "val")
    assert SAID in said(own, caplog)
    train = create_dataset("imagenet-plus", root=str(own), split="train", is_training=True)
    assert len(train) == 11
    assert len(train.__getitems__(range(11))) == 11
