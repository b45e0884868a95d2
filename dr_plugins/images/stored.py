"""Images that are not single files: in tar archives, lists, and Hugging Face datasets."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import tarfile
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from tqdm.auto import tqdm

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.images.decoding import open_image
from dr_plugins.images.kinds import DatasetKind
from dr_plugins.utils.files import cache_directory

_logger = logging.getLogger(__name__)
_LABELS = (".cls", ".json")  # members of webdataset's archives that hold an image's label


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

    Args:
        file: The list, UTF-8; empty lines are ignored.
        root: Directory that the paths are relative to; that of the list by default.

    Raises:
        ValueError: A line is not a path and a number, or only some lines have labels.
    """

    def __init__(self, file: str, root: str | None = None) -> None:
        self._root = os.path.dirname(file) if root is None else root
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

    def open(self, index: int) -> tuple[IO[bytes] | str, int]:
        """See `StoredImages.open`."""
        return os.path.join(self._root, self.keys[index]), self._labels[index]


class HubImages(StoredImages):
    """A dataset of the Hugging Face ``datasets`` library, read by position.

    Args:
        dataset: Map-style, with an ``Image`` column and, if labels are known, a ``ClassLabel``.

    Raises:
        ValueError: There is no column of images, or the images have no names.
    """

    def __init__(self, dataset: Any) -> None:
        import pyarrow.compute
        from datasets import ClassLabel, Image

        columns = dataset.features.items()
        images = [name for name, kind in columns if isinstance(kind, Image)]
        labels = [name for name, kind in columns if isinstance(kind, ClassLabel)]
        if not images:
            raise ValueError(f"there is no column of images among {list(dataset.features)}")
        self._image, self._label = images[0], labels[0] if labels else None
        if self._label is not None:
            self.classes = list(dataset.features[self._label].names)
        keep = [self._image] if self._label is None else [self._image, self._label]
        self._rows = dataset.select_columns(keep).cast_column(self._image, Image(decode=False))
        paths = [
            path
            for batch in self._rows.with_format("arrow").iter(1000)
            for path in pyarrow.compute.struct_field(batch[self._image], "path").to_pylist()
        ]
        if not all(paths):
            raise ValueError("the images have no names; pass keys")
        common = os.path.commonpath([os.path.dirname(p) for p in paths]) if len(paths) > 1 else ""
        self.keys = [os.path.relpath(p, common) if os.path.isabs(p) else p for p in paths]

    def open(self, index: int) -> tuple[IO[bytes] | str, int]:
        """See `StoredImages.open`."""
        row = self._rows[index]
        image = row[self._image]
        label = -1 if self._label is None else row[self._label]
        data = image["bytes"]
        return image["path"] if data is None else io.BytesIO(data), -1 if label is None else label


class TarImages(StoredImages):
    """The images in tar archives, without unpacking them.

    Known are ImageNet's own archive (one archive for each class inside), archives with a folder for
    each class, and webdataset's (an image's label in ``NAME.cls``, or as ``label`` in
    ``NAME.json``). The archives are read once to find the images; the index is kept in
    `$DR_PLUGINS_CACHE`.

    Args:
        pattern: An archive, or a glob pattern of several.
        class_names: Names of the classes in label order, if not all of them are in the archives.

    Raises:
        FileNotFoundError: No archive matches.
        ValueError: An archive is compressed or holds no images, or a class is unknown.
    """

    def __init__(self, pattern: str, class_names: Sequence[str] | None = None) -> None:
        self._paths = sorted(glob(pattern)) or [pattern]
        index = _read_index(self._paths)
        self._places = index["places"]
        names, classes = index["names"].tolist(), index["classes"].tolist()
        if not names:
            raise ValueError(f"{pattern} holds no images ({', '.join(IMG_EXTENSIONS)})")
        if len(set(names)) < len(names):  # webdataset may count from 0 in each archive
            stems = [PurePosixPath(path).stem for path in self._paths]
            names = [f"{stems[a]}/{n}" for (a, *_), n in zip(self._places, names, strict=True)]
        self.keys = names
        if all(name.isdecimal() for name in classes):  # webdataset stores numbers
            self._labels = [int(name) for name in classes]
            self.classes = None if class_names is None else list(class_names)
            return
        self.classes = sorted(set(classes)) if class_names is None else list(class_names)
        numbers = {name: number for number, name in enumerate(self.classes)}
        unknown = sorted(set(classes) - numbers.keys())
        if unknown:
            raise ValueError(f"classes {unknown[:3]} are not in the class map")
        self._labels = [numbers[name] for name in classes]

    def open(self, index: int) -> tuple[IO[bytes] | str, int]:
        """See `StoredImages.open`."""
        archive, offset, size = self._places[index].tolist()
        with open(self._paths[archive], "rb") as file:
            data = io.BytesIO(os.pread(file.fileno(), size, offset))
        return data, self._labels[index]


class _Member(NamedTuple):
    name: str
    label: str
    offset: int
    size: int


def _read_index(paths: Sequence[str]) -> dict[str, np.ndarray]:
    """The images in archives: read from the cache, or from the archives."""
    states = [(os.path.abspath(path), os.stat(path)) for path in paths]
    text = json.dumps([(path, state.st_size, state.st_mtime_ns) for path, state in states])
    kept = cache_directory() / "archives" / f"{hashlib.sha256(text.encode()).hexdigest()}.npz"
    if kept.exists():
        with np.load(kept) as stored:
            return dict(stored)
    members = [
        (archive, member)
        for archive, path in enumerate(tqdm(paths, "archives", disable=len(paths) < 2))
        for member in _members(path)
    ]
    index = {
        "names": np.array([member.name for _, member in members], np.str_),
        "classes": np.array([member.label for _, member in members], np.str_),
        "places": np.array([(a, m.offset, m.size) for a, m in members], np.int64).reshape(-1, 3),
    }
    temporary = kept.with_suffix(f".{os.getpid()}.tmp")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.savez(file, names=index["names"], classes=index["classes"], places=index["places"])
        os.replace(temporary, kept)
    except OSError as error:  # a cache that is full, or only readable
        _logger.warning("the index of the archives is not kept in %s: %s", kept.parent, error)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return index


def _members(path: str) -> Iterator[_Member]:
    """The images of an archive, with their classes as text."""
    try:
        with open(path, "rb") as file:
            yield from _members_at(file, 0, os.fstat(file.fileno()).st_size, "")
    except tarfile.TarError as error:
        raise ValueError(f"{path} is not a tar archive without compression: {error}") from error


def _members_at(file: IO[bytes], start: int, size: int, folder: str) -> Iterator[_Member]:
    labels: dict[str, str] = {}
    images: list[tuple[str, int, int]] = []
    part = _Part(file, start, size)
    with tarfile.open(fileobj=part, mode="r:") as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all of them
            name = PurePosixPath(folder, info.name.removeprefix("./"))
            at, suffix = start + info.offset_data, name.suffix.lower()
            if not info.isfile():
                continue
            if suffix == ".tar" and not folder:  # a class of ImageNet's own archive
                yield from _members_at(file, at, info.size, name.stem)
            elif suffix in IMG_EXTENSIONS:
                images.append((str(name), at, info.size))
            elif suffix in _LABELS:
                text = os.pread(file.fileno(), info.size, at)
                labels.setdefault(str(name.with_suffix("")), _label(text, suffix))
    labels = {name: label for name, label in labels.items() if label}
    for image, at, length in images:
        path = PurePosixPath(image)
        label = labels.get(str(path.with_suffix("")), path.parent.name)
        if not label:
            raise ValueError(f"{image} is in no folder of a class and has no label")
        yield _Member(image, label, at, length)


def _label(text: bytes, suffix: str) -> str:
    if suffix == ".json":
        return str(json.loads(text).get("label", ""))
    return str(int(text))


class _Part(io.RawIOBase):
    """A range of a file, as a file: an archive within an archive."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(self._size - self._at, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        data = os.pread(self._file.fileno(), wanted, self._start + self._at)
        self._at += len(data)
        return data


def open_hub(name: str, split: str) -> HubImages:
    """Open a dataset of the Hugging Face ``datasets`` library.

    Args:
        name: A directory written by ``save_to_disk``, or what ``load_dataset`` takes: a name on the
            Hub, or a directory.
        split: The split, such as ``"train"``.

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
        return HubImages(datasets.load_from_disk(name)[split])
    if os.path.exists(os.path.join(name, "state.json")):
        return HubImages(datasets.load_from_disk(name))
    return HubImages(datasets.load_dataset(name, split=split))
