"""Images in tar archives, read without unpacking them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS
from tqdm.auto import tqdm

from dr_plugins.images.stored import StoredImages
from dr_plugins.utils.files import cache_directory

_logger = logging.getLogger(__name__)
_LABELS = (".cls", ".json")  # members of webdataset's archives that hold an image's label
_INDEX_VERSION = 3  # of the arrays that are kept


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
        ValueError: An archive is compressed, holds no images or links to images, a class is
            unknown, or only some images have labels.
    """

    def __init__(self, pattern: str, class_names: Sequence[str] | None = None) -> None:
        self._paths = sorted(glob(pattern)) or [pattern]
        index = _read_index(self._paths)
        self._places = index["places"]
        names, classes = index["names"].tolist(), index["classes"].tolist()
        stated = index["stated"]
        if not names:
            raise ValueError(f"{pattern} holds no images ({', '.join(IMG_EXTENSIONS)})")
        if len(set(names)) < len(names):  # webdataset may count from 0 in each archive
            stems = [PurePosixPath(path).stem for path in self._paths]
            names = [f"{stems[a]}/{n}" for (a, *_), n in zip(self._places, names, strict=True)]
        self.keys = names
        if stated.any() and not stated.all():
            without = names[int(stated.argmin())]
            raise ValueError(f"{pattern}: some images have labels, but {without!r} has none")
        # webdataset stores numbers; numbers as names of folders are sorted like other names.
        if stated.all() and all(name.isdecimal() for name in classes):
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
    is_stated: bool  # not the name of the folder
    offset: int
    size: int


def _read_index(paths: Sequence[str]) -> dict[str, np.ndarray]:
    """The images in archives: read from the cache, or from the archives."""
    states = [(os.path.abspath(path), os.stat(path)) for path in paths]
    files = [(path, state.st_size, state.st_mtime_ns) for path, state in states]
    text = json.dumps([_INDEX_VERSION, files])
    kept = cache_directory() / "archives" / f"{hashlib.sha256(text.encode()).hexdigest()}.npz"
    try:
        with np.load(kept) as stored:
            return dict(stored)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        _logger.warning("%s is damaged (%s): the archives are read again", kept, error)
    members = [
        (archive, member)
        for archive, path in enumerate(tqdm(paths, "archives", disable=len(paths) < 2))
        for member in _members(path)
    ]
    index: dict[str, Any] = {
        "names": np.array([member.name for _, member in members], np.str_),
        "classes": np.array([member.label for _, member in members], np.str_),
        "stated": np.array([member.is_stated for _, member in members], bool),
        "places": np.array([(a, m.offset, m.size) for a, m in members], np.int64).reshape(-1, 3),
    }
    temporary = kept.with_suffix(f".{os.getpid()}.tmp")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.savez(file, **index)
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
            if info.issym() or info.islnk():
                if suffix in IMG_EXTENSIONS:
                    raise ValueError(
                        f"{name} is a link. Make the archive again with tar's --dereference and "
                        f"--hard-dereference"
                    )
                continue
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
        stated = labels.get(str(path.with_suffix("")))
        label = stated or path.parent.name
        if not label:
            raise ValueError(f"{image} is in no folder of a class and has no label")
        yield _Member(image, label, stated is not None, at, length)


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
