"""Image sources: any map-style dataset, as images with keys that do not depend on order.

torchvision's ImageFolder sorts files lexicographically and timm's reader sorts them naturally, so
an image's position does not identify it. Its path relative to the root does.
"""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import ConcatDataset, Subset
from torchvision.datasets.vision import StandardTransform

from dr_plugins.errors import DatasetMismatchError, ImageReadError
from dr_plugins.images.decoding import Picture, check_image, open_picture, strict_decoding, to_rgb
from dr_plugins.images.folders import ClassFolders
from dr_plugins.images.keys import ruled_keys
from dr_plugins.images.lookup import base_of, class_names_of, file_of, kind_of
from dr_plugins.images.schemes import find_opener, usage
from dr_plugins.images.stored import HubImages

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
            ImageFolder, CIFAR, MNIST family, Flowers102, Food101, Hugging Face ``datasets``, one of
            a package with a `DatasetKind` (timm's ImageDataset), a ``torch.utils.data.Subset`` of
            these, or any other dataset with `keys`.
        keys: One unique key per item; derived by `image_keys` if omitted. Or the name of a rule
            that is applied to the derived ones: ``"imagenet"`` gives ImageNet's images the same
            keys in every copy.

    Raises:
        DatasetMismatchError: The dataset has a transform, or keys cannot be derived.

    Example:
        >>> from torchvision import datasets
        >>> source = ImageSource(datasets.FakeData(3, (3, 8, 8)), keys=["a", "b", "c"])
        >>> source.keys[1], source.load(1)[0].size
        ('b', (8, 8))
    """

    def __init__(self, dataset: Any, keys: Sequence[str] | str | None = None) -> None:
        if _is_hub_dataset(dataset):
            dataset = HubImages(dataset, None if isinstance(keys, str) else keys)
        _refuse_transform(dataset)
        self.dataset = dataset
        names = image_keys(dataset) if keys is None or isinstance(keys, str) else keys
        self.keys = ruled_keys(names, keys) if isinstance(keys, str) else names
        if len(self.keys) != len(dataset):
            raise DatasetMismatchError(
                f"{len(self.keys)} keys for a dataset of {len(dataset)} images; pass one per image"
            )

    @property
    def base(self) -> Any:
        """The dataset itself, or the dataset behind a subset."""
        return base_of(self.dataset)

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes in label order; None if unknown.

        Raises:
            DatasetMismatchError: The parts of a ``ConcatDataset`` have different classes.
        """
        return class_names_of(self.base)

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
            file, label = file_of(self.dataset, index)
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
            file, _ = (None, -1) if full else file_of(self.dataset, index)
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
    kind = kind_of(dataset)
    found = None if kind is None else kind.keys(dataset)
    if found is not None:
        return list(found)
    raise DatasetMismatchError(
        f"cannot derive image keys from a {type(dataset).__name__}: pass `keys`, a unique name per "
        f"image that does not depend on the order (such as its relative path)"
    )


def open_source(
    spec: str | os.PathLike[str],
    class_map: str | os.PathLike[str] | None = None,
    train: bool = True,
    keys: str | None = None,
) -> ImageSource:
    """Open the images named by a command-line argument.

    Args:
        spec: A directory with one folder per class; ``torchvision:NAME:ROOT``, a torchvision
            dataset; ``hf:NAME``, a dataset of Hugging Face ``datasets`` (a name on the Hub, or a
            directory); ``tar:PATTERN``, archives as `TarImages` describes them; or ``list:FILE``,
            lines of PATH LABEL.
        class_map: UTF-8 text file with one class folder name per line, in label order; needed when
            the images are of only some of the classes. Where labels are numbers (``hf:``,
            ``list:``, some archives), it names them.
        train: Use the training split where a dataset has splits; if false, its validation or test
            split.
        keys: Name of a rule for the keys; see `ImageSource`.

    Raises:
        DatasetMismatchError: The dataset or directory does not exist, or holds no images, or the
            class map has no effect on it.

    Example:
        >>> source = open_source("imagenet/train")                          # doctest: +SKIP
        >>> source.class_names[0], source.keys[0]                           # doctest: +SKIP
        ('n01440764', 'n01440764/n01440764_10026.JPEG')
    """
    spec = os.fspath(spec)
    try:
        names = None if class_map is None else _lines(class_map)
        source = ImageSource(_open(spec, names, train), keys)
    except _OPEN_ERRORS as error:
        files = "Download its files first: torchvision.datasets.NAME(ROOT, download=True)."
        raise DatasetMismatchError(
            f"cannot open images {spec!r}: {error}. Expected a directory with one folder per "
            f"class, {usage()}, such as torchvision:CIFAR100:data."
            + (f" {files}" if spec.startswith("torchvision:") else "")
        ) from error
    if names is not None and source.class_names != names:
        raise DatasetMismatchError(
            f"{spec} numbers its classes itself, so the class map {class_map} "
            f"would have no effect; leave it out"
        )
    return source


def _open(spec: str, class_names: Sequence[str] | None, train: bool) -> Any:
    name, colon, rest = spec.partition(":")
    opener = find_opener(name) if colon else None
    return ClassFolders(spec, class_names) if opener is None else opener(rest, class_names, train)


def _cannot_read(key: str, error: Exception) -> ImageReadError:
    return ImageReadError(f"cannot read image {key!r}: {error}.")


def _lines(path: str | os.PathLike[str]) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # some editors write a BOM
    except UnicodeDecodeError as error:
        raise ValueError(f"class map {path} is not UTF-8: {error}. Save it as UTF-8") from error
    return [name for line in text.splitlines() if (name := line.strip())]


def _is_hub_dataset(dataset: Any) -> bool:
    # A project's own package may be called `datasets`, too.
    return type(dataset).__module__.startswith("datasets.") and hasattr(dataset, "select_columns")


def _refuse_transform(dataset: Any) -> None:
    # torchvision's `transforms`, for images and targets together, may hold a target's alone.
    both = getattr(dataset, "transforms", None)
    joint = getattr(both, "transform", None) if isinstance(both, StandardTransform) else both
    if getattr(dataset, "transform", None) is not None or joint is not None:
        raise DatasetMismatchError(
            f"the {type(dataset).__name__} has a transform, which would augment a second "
            f"time: create it without one, and pass the transform of plain images as "
            f"ReinforcedDataset(..., transform=)"
        )
    if isinstance(dataset, Subset):
        _refuse_transform(dataset.dataset)
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            _refuse_transform(part)
