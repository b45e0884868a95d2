"""Image sources: any map-style dataset, as images with keys that do not depend on order.

torchvision's ImageFolder sorts files lexicographically and timm's reader sorts them naturally, so
an image's position does not identify it. Its path relative to the root does.
"""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Subset
from torchvision.datasets.folder import default_loader

from dr_plugins.errors import DatasetMismatchError, ImageReadError
from dr_plugins.images.decoding import Picture, check_image, open_picture, strict_decoding, to_rgb
from dr_plugins.images.folders import ClassFolders
from dr_plugins.images.torchvision_sets import keys_of_torchvision, open_torchvision

__all__ = ["ImageSource", "image_keys", "open_source"]

_TORCHVISION_SCHEME = "torchvision:"
_OWN_LOADERS = (None, default_loader)
# Raised by datasets for damaged files and archives; other errors are bugs in their code.
_READ_ERRORS = (OSError, ValueError, SyntaxError, AttributeError, EOFError, tarfile.TarError)
# Raised by torchvision's datasets if files or libraries are missing, or a name is wrong.
_OPEN_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    AttributeError,
    TypeError,
    LookupError,
    ImportError,
)


class ImageSource:
    """Images with keys and labels, loaded by position; a failed image is never substituted.

    Args:
        dataset: A map-style dataset of (PIL image, label) without transform: torchvision's
            ImageFolder, CIFAR, MNIST family, Flowers102, Food101, timm's ImageDataset, a
            ``torch.utils.data.Subset`` of these, or any other dataset with `keys`.
        keys: One unique key per item; derived by `image_keys` if omitted.

    Raises:
        DatasetMismatchError: The dataset has a transform, or keys cannot be derived.

    Example:
        >>> from torchvision import datasets
        >>> source = ImageSource(datasets.FakeData(3, (3, 8, 8)), keys=["a", "b", "c"])
        >>> source.keys[1], source.load(1)[0].size
        ('b', (8, 8))
    """

    def __init__(self, dataset: Any, keys: Sequence[str] | None = None) -> None:
        _refuse_transform(dataset)
        self.dataset = dataset
        self.keys = image_keys(dataset) if keys is None else keys
        if len(self.keys) != len(dataset):
            raise DatasetMismatchError(
                f"{len(self.keys)} keys for a dataset of {len(dataset)} images; pass one per image"
            )

    @property
    def base(self) -> Any:
        """The dataset itself, or the dataset behind a subset."""
        dataset = self.dataset
        while isinstance(dataset, Subset):
            dataset = dataset.dataset
        return dataset

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes in label order; None if unknown."""
        dataset = self.base
        # torchvision's ImageNet has descriptions in `classes`, its folders' names in `wnids`.
        names = getattr(dataset, "wnids", getattr(dataset, "classes", None))
        if names is None:  # Caltech's, iNaturalist's
            names = getattr(dataset, "categories", getattr(dataset, "all_categories", None))
        reader = getattr(dataset, "reader", None)  # timm's; named differently for archives
        by_name = getattr(reader, "class_to_idx", getattr(reader, "class_name_to_idx", None))
        if names is None and by_name:
            names = sorted(by_name, key=by_name.__getitem__)
        return None if names is None else [str(name) for name in names]

    @property
    def left_out(self) -> Counter[str]:
        """Number of files next to the images that were left out, by extension, if known."""
        return Counter(getattr(self.base, "left_out", {}))

    def __len__(self) -> int:
        return len(self.keys)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Load one image.

        Args:
            index: Position in the dataset.

        Returns:
            RGB image and its label, -1 if unknown.

        Raises:
            ImageReadError: The image cannot be read.
            DatasetMismatchError: The dataset does not return PIL images.
        """
        image, label = self.load_picture(index, as_pixels=False)
        assert isinstance(image, Image.Image)
        return image, label

    def load_picture(self, index: int, *, as_pixels: bool = True) -> tuple[Picture, int]:
        """Load one image in the fastest way that yields the pixels of `load`.

        Args:
            index: Position in the dataset.
            as_pixels: Return an array, not a PIL image.

        Returns:
            The picture, as `open_picture` returns it, and the label, -1 if unknown.

        Raises:
            ImageReadError: The image cannot be read.
            DatasetMismatchError: The dataset does not return PIL images.
        """
        key = self.keys[index]
        try:
            file, label = _file(self.dataset, index)
            if file is not None:
                return open_picture(file, key, as_pixels=as_pixels), label
            with strict_decoding:
                image, label = self.dataset[index]
                image = to_rgb(image) if isinstance(image, Image.Image) else image
            if isinstance(image, Image.Image):
                return np.array(image) if as_pixels else image, -1 if label is None else int(label)
        except _READ_ERRORS as error:
            raise _cannot_read(key, error) from error
        raise DatasetMismatchError(
            f"the dataset returned a {type(image).__name__} for image {key!r}; expected a PIL "
            f"image. Create the dataset without transform."
        )

    def check(self, index: int, *, full: bool = False) -> None:
        """Check that an image can be read.

        Args:
            index: Position in the dataset.
            full: Decode it; if false, check only its beginning and end if that is conclusive.

        Raises:
            ImageReadError: The image cannot be read.
        """
        try:
            file, _ = (None, -1) if full else _file(self.dataset, index)
        except _READ_ERRORS as error:
            raise _cannot_read(self.keys[index], error) from error
        if file is None:
            self.load_picture(index)
        else:
            check_image(file, self.keys[index])

    def without(self, keys: Iterable[str]) -> ImageSource:
        """Return the source without the images of some keys; unknown keys are ignored."""
        left_out = set(keys)
        kept = [i for i, key in enumerate(self.keys) if key not in left_out]
        if len(kept) == len(self):
            return self
        return ImageSource(Subset(self.dataset, kept), [self.keys[i] for i in kept])

    def __repr__(self) -> str:
        return f"ImageSource({type(self.dataset).__name__}, {len(self)} images)"


def image_keys(dataset: Any) -> list[str]:
    """Return a key for each item of a dataset: the file's path relative to its root, with ``/``.

    torchvision's array datasets (CIFAR, MNIST family) have no files; only their published order
    identifies an image, so the keys are ``00000``, ``00001`` and so on.

    Raises:
        DatasetMismatchError: The kind of dataset is unknown.
    """
    if isinstance(dataset, Subset):
        keys = image_keys(dataset.dataset)
        return [keys[i] for i in dataset.indices]
    if hasattr(dataset, "filenames"):  # timm.data.ImageDataset
        return [PurePath(name).as_posix() for name in dataset.filenames(absolute=False)]
    found = keys_of_torchvision(dataset)
    if found is not None:
        return found
    raise DatasetMismatchError(
        f"cannot derive image keys from a {type(dataset).__name__}: pass `keys`, a unique name per "
        f"image that does not depend on the order (such as its relative path)"
    )


def open_source(
    spec: str, class_map: str | os.PathLike[str] | None = None, train: bool = True
) -> ImageSource:
    """Open the images named by a command-line argument.

    Args:
        spec: A directory with one folder per class, or ``torchvision:NAME:ROOT`` for a torchvision
            dataset.
        class_map: UTF-8 text file with one class folder name per line, in label order; needed when
            the directory holds only some of the classes.
        train: Use a torchvision dataset's training split; if false, its validation or test split.

    Raises:
        DatasetMismatchError: The dataset or directory does not exist, or holds no images.

    Example:
        >>> source = open_source("imagenet/train")                          # doctest: +SKIP
        >>> source.class_names[0], source.keys[0]                           # doctest: +SKIP
        ('n01440764', 'n01440764/n01440764_10026.JPEG')
    """
    try:
        if spec.startswith(_TORCHVISION_SCHEME):
            _, name, root = spec.split(":", 2)
            return ImageSource(open_torchvision(name, root, train))
        return ImageSource(ClassFolders(spec, None if class_map is None else _lines(class_map)))
    except _OPEN_ERRORS as error:
        raise DatasetMismatchError(
            f"cannot open images {spec!r}: {error}. Expected a directory with one folder per "
            f"class, or torchvision:NAME:ROOT (such as torchvision:CIFAR100:data). Download the "
            f"latter's files first: torchvision.datasets.NAME(ROOT, download=True)."
        ) from error


def _cannot_read(key: str, error: Exception) -> ImageReadError:
    return ImageReadError(f"cannot read image {key!r}: {error}.")


def _lines(path: str | os.PathLike[str]) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # some editors write a BOM
    except UnicodeDecodeError as error:
        raise ValueError(f"class map {path} is not UTF-8: {error}. Save it as UTF-8") from error
    return [name for line in text.splitlines() if (name := line.strip())]


def _refuse_transform(dataset: Any) -> None:
    if getattr(dataset, "transform", None) is not None:
        raise DatasetMismatchError(
            f"the {type(dataset).__name__} has a transform, which would augment a second "
            f"time: create it without one, and pass the transform of plain images as "
            f"ReinforcedDataset(..., transform=)"
        )
    if isinstance(dataset, Subset):
        _refuse_transform(dataset.dataset)


def _is_loaded_by(dataset: Any, module: str) -> bool:
    """Whether a library's own code loads the items, so bypassing it changes nothing."""
    own = f"{getattr(type(dataset).__getitem__, '__module__', None)}."
    return own.startswith(f"{module}.") and getattr(dataset, "loader", None) in _OWN_LOADERS


def _file(dataset: Any, index: int) -> tuple[Any, int]:
    """The file behind an item and its label; (None, -1) if only the dataset can load it.

    timm's ImageDataset substitutes the next image for an unreadable one; its reader does not.
    torchvision's default loader is replaced by ours, which handles 16-bit images.
    """
    while type(dataset) is Subset:  # a subclass may do more than select
        dataset, index = dataset.dataset, dataset.indices[index]
    if _is_loaded_by(dataset, "timm.data.dataset") and hasattr(dataset, "reader"):
        file, label, *_ = dataset.reader[index]
        return file, _label(dataset, label)
    if _is_loaded_by(dataset, "torchvision.datasets.folder"):
        path, label = dataset.samples[index]
        return path, _label(dataset, label)
    if _is_loaded_by(dataset, "torchvision.datasets") and hasattr(dataset, "_image_files"):
        # Flowers102, Food101 and similar
        return dataset._image_files[index], _label(dataset, dataset._labels[index])
    return None, -1


def _label(dataset: Any, label: Any) -> int:
    if label is None:
        return -1
    return int(label if dataset.target_transform is None else dataset.target_transform(label))
