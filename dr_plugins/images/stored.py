"""Images in lists and in Hugging Face datasets."""

from __future__ import annotations

import io
import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.images.decoding import open_image
from dr_plugins.images.kinds import DatasetKind


class StoredImages(Dataset[tuple[Image.Image, int]]):
    """Images with names and labels, read one at a time.

    Attributes:
        keys: Name of each image.
        classes: Names of the classes in label order; None if unknown.
    """

    keys: Sequence[str]
    classes: list[str] | None = None

    @abstractmethod
    def open(self, index: int) -> tuple[IO[bytes] | str, int]:
        """Return an image's file, open or as a path, and its label, -1 if unknown."""

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        file, label = self.open(index)
        return open_image(file, self.keys[index]), label

    def __len__(self) -> int:
        return len(self.keys)


KIND = DatasetKind(
    # A subclass may do more to an image than read it.
    knows=lambda dataset: getattr(type(dataset), "__getitem__", None) is StoredImages.__getitem__,
    keys=lambda dataset: dataset.keys,
    file=lambda dataset, index: dataset.open(index),
    class_names=lambda dataset: dataset.classes,
)
"""The datasets of this package."""


class ListedImages(StoredImages):
    """The images of a text file with lines ``PATH LABEL``, or ``PATH`` alone in all of them.

    Paths are relative to the directory of the list.

    Args:
        file: The list, UTF-8; empty lines are ignored.
        class_names: Names of the classes in label order.

    Raises:
        ValueError: A line is not a path and a number, only some lines have labels, or a label has
            no name.
    """

    def __init__(self, file: str, class_names: Sequence[str] | None = None) -> None:
        self._root = os.path.dirname(file)
        self.classes = None if class_names is None else list(class_names)
        lines = [line for line in Path(file).read_text("utf-8").splitlines() if line.strip()]
        self.keys, self._labels = [], []
        for line in lines:
            path, _, label = line.strip().rpartition(" ")
            if not label.isdecimal() and line.strip().lower().endswith(IMG_EXTENSIONS):
                path, label = line.strip(), "-1"
            elif not path or not label.isdecimal():
                raise ValueError(f"{file}: expected lines of PATH LABEL, found {line!r}")
            self.keys.append(PurePosixPath(path.strip()).as_posix())
            self._labels.append(int(label))
        if not lines:
            raise ValueError(f"{file} lists no images")
        if min(self._labels) < 0 <= max(self._labels):
            without = self.keys[self._labels.index(-1)]
            raise ValueError(f"{file}: some images have labels, but {without!r} has none")
        if self.classes is not None and max(self._labels) >= len(self.classes):
            raise ValueError(
                f"{file} has label {max(self._labels)}, but the class map lists "
                f"{len(self.classes)} classes, from 0"
            )

    def open(self, index: int) -> tuple[IO[bytes] | str, int]:
        """See `StoredImages.open`."""
        return os.path.join(self._root, self.keys[index]), self._labels[index]


class HubImages(StoredImages):
    """A dataset of the Hugging Face ``datasets`` library, read by position.

    Args:
        dataset: Map-style, with an ``Image`` column and, if labels are known, a ``ClassLabel``.
        keys: Names of the images; those in the dataset by default.
        class_names: Other names of the classes, in label order.

    Raises:
        DatasetMismatchError: The dataset has a transform.
        ValueError: There is no column of images, the images have no names, or `class_names` lists
            other classes or the same ones in another order.
    """

    def __init__(
        self,
        dataset: Any,
        keys: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        from datasets import ClassLabel, Image

        if dataset.format["type"] == "custom":
            raise DatasetMismatchError(
                "the dataset has a transform, which would augment a second time: leave out "
                "set_transform and with_transform, and pass the transform of plain images as "
                "ReinforcedDataset(..., transform=)"
            )
        columns = dataset.features.items()
        images = [name for name, kind in columns if isinstance(kind, Image)]
        labels = [name for name, kind in columns if isinstance(kind, ClassLabel)]
        if not images:
            raise ValueError(f"there is no column of images among {list(dataset.features)}")
        self._image, self._label = images[0], labels[0] if labels else None
        if self._label is not None:
            self.classes = _renamed(dataset.features[self._label].names, class_names)
        keep = [self._image] if self._label is None else [self._image, self._label]
        self._rows = dataset.select_columns(keep).cast_column(self._image, Image(decode=False))
        self.keys = self._names() if keys is None else keys

    def _names(self) -> list[str]:
        import pyarrow.compute

        paths = [
            path
            for batch in self._rows.with_format("arrow").iter(1000)
            for path in pyarrow.compute.struct_field(batch[self._image], "path").to_pylist()
        ]
        if not all(paths):
            raise ValueError("the images have no names; pass keys")
        common = os.path.commonpath([os.path.dirname(p) for p in paths]) if len(paths) > 1 else ""
        return [os.path.relpath(p, common) if os.path.isabs(p) else p for p in paths]

    def open(self, index: int) -> tuple[IO[bytes] | str, int]:
        """See `StoredImages.open`."""
        row = self._rows[index]
        image = row[self._image]
        label = -1 if self._label is None else row[self._label]
        data = image["bytes"]
        return image["path"] if data is None else io.BytesIO(data), -1 if label is None else label


def _renamed(names: Sequence[str], class_names: Sequence[str] | None) -> list[str]:
    """The names of numbered classes, or those of a class map, which cannot change the numbers."""
    if class_names is None:
        return list(names)
    places = {name: place for place, name in enumerate(class_names)}
    moved = [name for label, name in enumerate(names) if places.get(name, label) != label]
    if len(class_names) != len(names) or moved:
        raise ValueError(
            f"the class map lists {len(class_names)} classes"
            + (f", {moved[0]!r} at another place than the dataset" if moved else "")
            + f"; expected a name for each of its {len(names)} labels, in their order"
        )
    return list(class_names)


def open_hub(name: str, split: str, class_names: Sequence[str] | None = None) -> HubImages:
    """Open a dataset of the Hugging Face ``datasets`` library.

    Args:
        name: A directory written by ``save_to_disk``, or what ``load_dataset`` takes: a name on the
            Hub, or a directory.
        split: The split, such as ``"train"``.
        class_names: See `HubImages`.

    Raises:
        DatasetMismatchError: The library is not installed.
        ValueError: See `HubImages`.
    """
    try:
        import datasets
    except ImportError as error:
        raise DatasetMismatchError(
            f"cannot open hf:{name}: {error}. pip install datasets"
        ) from error
    if os.path.exists(os.path.join(name, "dataset_dict.json")):
        return HubImages(datasets.load_from_disk(name)[split], class_names=class_names)
    if os.path.exists(os.path.join(name, "state.json")):
        return HubImages(datasets.load_from_disk(name), class_names=class_names)
    return HubImages(datasets.load_dataset(name, split=split), class_names=class_names)
