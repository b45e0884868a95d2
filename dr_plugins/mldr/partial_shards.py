"""Store records on disk until all images of their shard are complete.

The members of an archive come in any order, so many shards are incomplete at the same time. Each
has a file of raw records in their final order; memory holds only what is being decoded. Each
record has a checksum, so after an interruption the files show which records are complete.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dr_plugins.errors import OutputError
from dr_plugins.records import RecordLayout, is_whole

INSPECTION_NAME, SIZES_NAME = "inspection.safetensors", "sizes.safetensors"
_FOLDER = "importing"
_OWN_FILES = re.compile(r"(?:(?:inspection|sizes)\.safetensors(?:\.tmp)?|shard-[0-9]{5,}\.records)")
_SIZE = np.dtype("<i4")


def open_work_dir(out: Path) -> Path:
    """Return the directory for unfinished work in `out`; create it if needed.

    Raises:
        OutputError: It cannot be created, or holds files that no import has written.
    """
    directory = out / _FOLDER
    with _output_errors(directory):
        directory.mkdir(exist_ok=True)
        foreign = None if directory.is_symlink() else _foreign(directory)
    if directory.is_symlink() or foreign is not None:
        raise OutputError(
            f"{directory} is needed for unfinished work, but "
            + (f"holds {foreign!r}, which no import has written" if foreign else "is a link")
            + ". Move it away, or choose another directory with --out."
        )
    return directory


def clear_work_dir(directory: Path) -> None:
    """Delete the work directory; keep files that no import has written.

    Raises:
        OutputError: A file cannot be deleted.
    """
    with _output_errors(directory):
        for file in list(directory.iterdir()):
            if _OWN_FILES.fullmatch(file.name):
                file.unlink()
        if not any(directory.iterdir()):
            directory.rmdir()


def _foreign(directory: Path) -> str | None:
    with os.scandir(directory) as entries:
        for entry in entries:
            if not _OWN_FILES.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                return entry.name
    return None


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {error.filename or path}: {error.strerror}. Make the place writable or "
            f"free some space, then run the same command again: finished work is kept."
        ) from error


@dataclass(frozen=True)
class PartialShards:
    """Files of records, one for each incomplete shard.

    Attributes:
        directory: Directory of the files.
        layout: Byte layout of a record.
        samples: Reinforcements per image.
    """

    directory: Path
    layout: RecordLayout
    samples: int

    @property
    def image_bytes(self) -> int:
        """Bytes of one image: height, width, and its records."""
        return 2 * _SIZE.itemsize + self.samples * self.layout.itemsize

    def path(self, shard: int) -> Path:
        """Return the file of a shard."""
        return self.directory / f"shard-{shard:05d}.records"

    def store(
        self, shard: int, position: int, first: int, records: np.ndarray, size: tuple[int, int]
    ) -> None:
        """Write sealed records of one image to the file of its shard.

        Args:
            shard: Number of the shard.
            position: Position of the image in the shard.
            first: Sample number of the first record.
            records: Array ``[n]`` of the layout's dtype.
            size: (height, width) of the image, (0, 0) if unknown.

        Raises:
            OutputError: The file cannot be written.
        """
        start = position * self.image_bytes
        head = np.array(size, _SIZE).tobytes()
        offset = start + len(head) + first * self.layout.itemsize
        path = self.path(shard)
        with _output_errors(path):
            descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)
            try:
                _write(descriptor, head, start)
                _write(descriptor, records.tobytes(), offset)
            finally:
                os.close(descriptor)

    def load(self, shard: int, images: int) -> tuple[np.ndarray, np.ndarray]:
        """Return sizes int32 ``[images, 2]`` and records ``[images, S]``; zero if missing."""
        path = self.path(shard)
        data = np.zeros(images * self.image_bytes, np.uint8)
        with _output_errors(path):
            if path.exists():
                stored = np.fromfile(path, np.uint8, len(data))
                data[: len(stored)] = stored
        rows = data.reshape(images, self.image_bytes)
        head = 2 * _SIZE.itemsize
        sizes = np.ascontiguousarray(rows[:, :head]).view(_SIZE)
        records = np.ascontiguousarray(rows[:, head:]).view(self.layout.dtype)
        return sizes, records

    def delete(self, shard: int) -> None:
        """Delete the file of a shard.

        Raises:
            OutputError: It cannot be deleted.
        """
        path = self.path(shard)
        with _output_errors(path):
            path.unlink(missing_ok=True)

    def done(self, shard: int, keys: list[bytes], ranges: list[slice], start: int) -> np.ndarray:
        """Return which sample ranges of each image are complete: bool ``[images, ranges]``.

        Args:
            shard: Number of the shard.
            keys: UTF-8 key of each of its images.
            ranges: Sample numbers that each set contributes.
            start: `set_checksum` of the set.
        """
        done = np.zeros((len(keys), len(ranges)), bool)
        if not self.path(shard).exists():
            return done
        _, stored = self.load(shard, len(keys))
        raw = stored.view(np.uint8).reshape(*stored.shape, self.layout.itemsize)
        for position, key in enumerate(keys):
            for number, samples in enumerate(ranges):
                records = raw[position, samples]
                done[position, number] = all(is_whole(r.data, key, start) for r in records)
        return done


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
