"""Image sources: any map-style dataset, seen as images with keys that do not depend on order.

torchvision's ImageFolder sorts files lexicographically and timm's reader sorts them naturally, so
the position of an image says nothing. Its path relative to the root does.
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
# What datasets raise for damaged files and archives; all else is a mistake in their code.
_READ_ERRORS = (OSError, ValueError, SyntaxError, AttributeError, EOFError, tarfile.TarError)
# What torchvision's datasets raise where files or libraries are missing, or a name is wrong.
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
    """Images with keys and labels, loaded by position, never replaced by a neighbour.

    Args:
        dataset: A map-style dataset of (PIL image, label) without transform: torchvision's
            ImageFolder, CIFAR, MNIST family, Flowers102, Food101, timm's ImageDataset, a
            ``torch.utils.data.Subset`` of these, or any other together with `keys`.
        keys: One unique key for each item; derived by `image_keys` if omitted.

    Raises:
        DatasetMismatchError: The dataset has a transform of its own, or keys cannot be derived.

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
                f"{len(self.keys)} keys for a dataset of {len(dataset)} images; give one for each"
            )

    @property
    def base(self) -> Any:
        """The dataset, or that of which it is a subset."""
        dataset = self.dataset
        while isinstance(dataset, Subset):
            dataset = dataset.dataset
        return dataset

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes in label order; None if the dataset does not tell."""
        dataset = self.base
        # torchvision's ImageNet has descriptions in `classes`, its folders' names in `wnids`.
        names = getattr(dataset, "wnids", getattr(dataset, "classes", None))
        if names is None:  # Caltech's, iNaturalist's
            names = getattr(dataset, "categories", getattr(dataset, "all_categories", None))
        reader = getattr(dataset, "reader", None)  # timm's; the one for archives has another name
        by_name = getattr(reader, "class_to_idx", getattr(reader, "class_name_to_idx", None))
        if names is None and by_name:
            names = sorted(by_name, key=by_name.__getitem__)
        return None if names is None else [str(name) for name in names]

    @property
    def left_out(self) -> Counter[str]:
        """How many files beside the images were left out, by extension, where that is known."""
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
            ImageReadError: Naming the key; no other image takes its place.
            DatasetMismatchError: The dataset gives something else than PIL images.
        """
        image, label = self.load_picture(index, as_pixels=False)
        assert isinstance(image, Image.Image)
        return image, label

    def load_picture(self, index: int, *, as_pixels: bool = True) -> tuple[Picture, int]:
        """Load one image in the fastest way that gives the pixels of `load`.

        Args:
            index: Position in the dataset.
            as_pixels: Give an array, not a PIL image.

        Returns:
            What `open_picture` gives, and the label, -1 if unknown.

        Raises:
            ImageReadError: Naming the key; no other image takes its place.
            DatasetMismatchError: The dataset gives something else than PIL images.
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
            f"the dataset gives a {type(image).__name__} for image {key!r}; a PIL image was "
            f"expected. Create the dataset without transform."
        )

    def check(self, index: int, *, full: bool = False) -> None:
        """Make sure that an image can be read.

        Args:
            index: Position in the dataset.
            full: Decode it; else look at its beginning and end, as far as that is enough.

        Raises:
            ImageReadError: It cannot.
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
        """Return the source without the images of some keys; some may be none of its images."""
        left_out = set(keys)
        kept = [i for i, key in enumerate(self.keys) if key not in left_out]
        if len(kept) == len(self):
            return self
        return ImageSource(Subset(self.dataset, kept), [self.keys[i] for i in kept])

    def __repr__(self) -> str:
        return f"ImageSource({type(self.dataset).__name__}, {len(self)} images)"


def image_keys(dataset: Any) -> list[str]:
    """Return a key for each item of a dataset: the file's path relative to its root, with ``/``.

    torchvision's array datasets (CIFAR, MNIST family) have no files; their published order is the
    only identity there is, and the keys are ``00000``, ``00001`` and so on.

    Raises:
        DatasetMismatchError: The dataset is of no known kind.
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
        f"cannot derive image keys from a {type(dataset).__name__}: pass `keys`, one unique name "
        f"for each image that does not depend on the order (such as its relative path)"
    )


def open_source(
    spec: str, class_map: str | os.PathLike[str] | None = None, train: bool = True
) -> ImageSource:
    """Open the images that a command-line argument names.

    Args:
        spec: A directory with one folder for each class, or ``torchvision:NAME:ROOT`` for a
            torchvision dataset.
        class_map: UTF-8 text file with one class folder name per line, in label order; needed when
            the directory holds only some of the classes.
        train: Take a torchvision dataset's training split; else the one to test on.

    Raises:
        DatasetMismatchError: There is no such dataset or directory, or it holds no images.

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
            f"cannot open images {spec!r}: {error}. Expected a directory with one folder for each "
            f"class, or torchvision:NAME:ROOT (such as torchvision:CIFAR100:data), whose files are "
            f"downloaded already: torchvision.datasets.NAME(ROOT, download=True)."
        ) from error


def _cannot_read(key: str, error: Exception) -> ImageReadError:
    return ImageReadError(f"cannot read image {key!r}: {error}.")


def _lines(path: str | os.PathLike[str]) -> list[str]:
    lines = Path(path).read_text(encoding="utf-8-sig").splitlines()  # some editors write a mark
    return [name for line in lines if (name := line.strip())]


def _refuse_transform(dataset: Any) -> None:
    if getattr(dataset, "transform", None) is not None:
        raise DatasetMismatchError(
            f"the {type(dataset).__name__} has a transform, which would augment a second "
            f"time: create it without, and pass the transform for plain images as "
            f"ReinforcedDataset(..., transform=)"
        )
    if isinstance(dataset, Subset):
        _refuse_transform(dataset.dataset)


def _is_loaded_by(dataset: Any, module: str) -> bool:
    """Whether a library's own code loads the items, so that going around it changes nothing."""
    own = f"{getattr(type(dataset).__getitem__, '__module__', None)}."
    return own.startswith(f"{module}.") and getattr(dataset, "loader", None) in _OWN_LOADERS


def _file(dataset: Any, index: int) -> tuple[Any, int]:
    """The file behind an item and its label; (None, -1) if only the dataset can load it.

    timm's ImageDataset answers for an unreadable file with the next one; going to its reader does
    not. torchvision's default loader is replaced by ours for its handling of 16-bit images.
    """
    while type(dataset) is Subset:  # a subclass may do more than choose
        dataset, index = dataset.dataset, dataset.indices[index]
    if _is_loaded_by(dataset, "timm.data.dataset") and hasattr(dataset, "reader"):
        file, label, *_ = dataset.reader[index]
        return file, _label(dataset, label)
    if _is_loaded_by(dataset, "torchvision.datasets.folder"):
        path, label = dataset.samples[index]
        return path, _label(dataset, label)
    if _is_loaded_by(dataset, "torchvision.datasets") and hasattr(dataset, "_image_files"):
        # Flowers102, Food101 and their kind
        return dataset._image_files[index], _label(dataset, dataset._labels[index])
    return None, -1


def _label(dataset: Any, label: Any) -> int:
    if label is None:
        return -1
    return int(label if dataset.target_transform is None else dataset.target_transform(label))
