"""Images and sets that do not fit each other."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder

from dr_plugins import ReinforcedDataset
from dr_plugins.errors import (
    DatasetMismatchError,
    FormatError,
    ImageChangedError,
    ImageReadError,
    UnknownImageError,
)
from tests.dr_plugins.training.samples import flat
from tests.tiny import make_photographs, photograph

Sets = Callable[..., Path]
SAMPLES = 6


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
