"""Map an archive's image numbers to images: positions in torchvision's order of the dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from torchvision import datasets

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.images.sources import ImageSource
from dr_plugins.images.stored import StoredImages
from dr_plugins.mldr.errors import ArchiveError


@dataclass(frozen=True)
class ImageOrder:
    """Images in the order in which an archive numbers them.

    Attributes:
        keys: Image keys.
        labels: int32 ``[images]``, -1 where unknown.
        class_names: Names of the classes in label order; None if unknown.
        files: Path of each image; None if there are no files, or if they are not to be opened.
        size: (height, width) of all images in pixels; None if they differ or are unknown.

    Example:
        >>> order = ImageOrder.of_source(open_source("imagenet/train"))     # doctest: +SKIP
        >>> order = ImageOrder.of_list(Path("imagenet-train.txt"))          # doctest: +SKIP
    """

    keys: Sequence[str]
    labels: np.ndarray
    class_names: list[str] | None
    files: Sequence[str] | None
    size: tuple[int, int] | None = None

    @classmethod
    def of_source(cls, source: ImageSource) -> ImageOrder:
        """Return the order of a dataset.

        Raises:
            DatasetMismatchError: Its labels are only available by loading the images, or it lists
                images in an order of its own.
        """
        dataset = source.dataset
        if isinstance(dataset, StoredImages):
            raise DatasetMismatchError(
                f"{type(dataset).__name__} lists images as they are stored, but ml-dr numbers them "
                f"in torchvision's order (classes and files sorted by name). Pass a directory with "
                f"one folder per class, or the order as --file-list."
            )
        labels = getattr(dataset, "targets", getattr(dataset, "_labels", None))
        if labels is None:
            raise DatasetMismatchError(
                f"cannot read the labels of a {type(dataset).__name__} without loading its images"
                " (it has no `targets`)"
            )
        names = source.class_names or [str(number) for number in range(int(max(labels)) + 1)]
        return cls(source.keys, np.array(labels, np.int32), names, _files(dataset), _size(dataset))

    @classmethod
    def of_list(cls, path: Path, root: Path | None = None) -> ImageOrder:
        """Return the order of a list with one path per line, relative to the images' root.

        The class of an image is its first folder; classes are numbered in the sorted order of
        their names, as ImageFolder does.

        Raises:
            DatasetMismatchError: The list cannot be read, is empty, or names an unsafe path.
        """
        try:
            # Not splitlines: file names may contain other Unicode line breaks.
            keys = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetMismatchError(f"cannot read the file list {path}: {error}") from error
        if keys == [""]:
            raise DatasetMismatchError(f"the file list {path} is empty")
        for number, key in enumerate(keys, 1):
            pure = PurePosixPath(key)
            if not key or pure.is_absolute() or ".." in pure.parts or pure.as_posix() != key:
                raise DatasetMismatchError(
                    f"{path}, line {number}: {key!r} is not a plain relative path with `/`"
                )
        folders = [key.split("/")[0] if "/" in key else "" for key in keys]
        names = sorted(set(folders) - {""})
        number_of = {name: number for number, name in enumerate(names)} | {"": -1}
        labels = np.array([number_of[folder] for folder in folders], np.int32)
        files = None if root is None else _Below(str(root), keys)
        return cls(keys, labels, names or None, files)

    def __len__(self) -> int:
        return len(self.keys)

    def digest(self) -> str:
        """Return a digest of all keys and labels in order."""
        digest = hashlib.blake2b(digest_size=16)
        for key in self.keys:
            digest.update(key.encode() + b"\0")
        digest.update(self.labels.astype("<i4").tobytes())
        return digest.hexdigest()

    def check_index(self, index: int) -> None:
        """Raise if an image number is out of range.

        Raises:
            ArchiveError: There is no image with this number.
        """
        if index >= len(self):
            raise ArchiveError(
                f"it is for image number {index}, but there are only {len(self)} images. Pass the "
                f"complete training set that the archive was made from."
            )


class _Below(Sequence[str]):
    """Paths below a root directory, joined on access."""

    def __init__(self, root: str, keys: Sequence[str]) -> None:
        self._root, self._keys = root, keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: Any) -> Any:
        return f"{self._root}/{self._keys[index]}"


class _Samples(Sequence[str]):
    """Paths of an ImageFolder, without a copy of its list."""

    def __init__(self, samples: list[tuple[str, int]]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        return self._samples[index][0]


def _files(dataset: Any) -> Sequence[str] | None:
    if isinstance(dataset, datasets.DatasetFolder):
        return _Samples(dataset.samples)
    files = getattr(dataset, "_image_files", None)  # torchvision's Flowers102 and Food101
    return None if files is None else [str(file) for file in files]


def _size(dataset: Any) -> tuple[int, int] | None:
    pixels = getattr(dataset, "data", None)  # torchvision's CIFAR10, CIFAR100 and similar
    return pixels.shape[1:3] if isinstance(pixels, np.ndarray) and pixels.ndim == 4 else None
