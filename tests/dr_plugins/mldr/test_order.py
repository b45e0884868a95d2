from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets
from torchvision.datasets import FakeData

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.images.sources import ImageSource, open_source
from dr_plugins.mldr.order import ImageOrder


class _Arrays:
    """Like torchvision's CIFAR100."""

    classes = ("apple", "boat")
    targets = (1, 0, 1)
    data = np.zeros((3, 8, 8, 3), np.uint8)
    transform = None

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("the order must not require loading images")


class _Files(datasets.Food101):
    """torchvision's Food101, and so Flowers102, without its files."""

    def __init__(self) -> None:
        self.transform = self.target_transform = None
        self.classes = ["apple", "boat"]
        self._images_folder = Path("/data/images")
        self._image_files = [self._images_folder / f"{name}.jpg" for name in ("b/2", "b/10", "a/1")]
        self._labels = [1, 1, 0]

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        raise AssertionError("the order must not require loading images")


def test_an_image_folder_is_counted_by_name(images: Path) -> None:
    order = ImageOrder.of_source(open_source(str(images)))
    assert order.keys[:3] == [f"n00000000/n00000000_{n}.png" for n in (10026, 18, 2)]
    assert order.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert order.files is not None
    assert order.files[1] == str(images / "n00000000" / "n00000000_18.png")
    assert len(order.files) == len(order) == 12


def test_an_array_dataset_keeps_its_order() -> None:
    order = ImageOrder.of_source(ImageSource(_Arrays(), ["00000", "00001", "00002"]))
    assert order.keys == ["00000", "00001", "00002"]
    assert order.labels.tolist() == [1, 0, 1]
    assert order.class_names == ["apple", "boat"]
    assert order.files is None


def test_a_file_dataset_keeps_its_order() -> None:
    order = ImageOrder.of_source(ImageSource(_Files()))
    assert order.keys == ["b/2.jpg", "b/10.jpg", "a/1.jpg"]
    assert order.labels.tolist() == [1, 1, 0]
    assert list(order.files or ()) == [f"/data/images/{key}" for key in order.keys]


def test_an_archive_of_the_images_has_another_order(images: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for file in sorted(images.rglob("*.png"), reverse=True):
            tar.add(file, file.relative_to(images))
    with pytest.raises(DatasetMismatchError, match="--file-list"):
        ImageOrder.of_source(open_source(f"tar:{tmp_path / 'images.tar'}"))


def test_a_list_with_the_images(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("b/2.png\na/1.png\nb/1.png\n")
    order = ImageOrder.of_list(tmp_path / "list", Path("/data"))
    assert order.labels.tolist() == [1, 0, 1]
    assert order.class_names == ["a", "b"]
    assert order.files is not None
    assert [order.files[i] for i in range(3)] == ["/data/b/2.png", "/data/a/1.png", "/data/b/1.png"]


@pytest.mark.parametrize(
    "text", ["\ufeffa/1.png\nb/x\u2028\x0cy .png\n", "a/1.png\r\nb/x\u2028\x0cy .png"]
)
def test_lists_as_editors_write_them_and_odd_names(tmp_path: Path, text: str) -> None:
    (tmp_path / "list").write_bytes(text.encode())
    assert ImageOrder.of_list(tmp_path / "list").keys == ["a/1.png", "b/x\u2028\x0cy .png"]


def test_unusable_orders(tmp_path: Path) -> None:
    with pytest.raises(DatasetMismatchError, match="labels of a FakeData"):
        ImageOrder.of_source(ImageSource(FakeData(2), keys=["a", "b"]))
    with pytest.raises(DatasetMismatchError, match="cannot read the file list"):
        ImageOrder.of_list(tmp_path / "missing")
    (tmp_path / "empty").write_text("")
    with pytest.raises(DatasetMismatchError, match="is empty"):
        ImageOrder.of_list(tmp_path / "empty")
