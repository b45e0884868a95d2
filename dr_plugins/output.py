"""The output directory of a generation: one writer, one set of settings, finished shards kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from dr_plugins.container import TEMPORARY_SUFFIX, file_digest, write_file
from dr_plugins.errors import FormatError, LockedError, OutputError, SettingsMismatchError
from dr_plugins.key_index import KeyIndex
from dr_plugins.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    library_versions,
    settings_digest,
)
from dr_plugins.reader import map_shard
from dr_plugins.records import RecordLayout
from dr_plugins.shard import Shard, shard_name

__all__ = ["OutputDirectory", "locked"]

_PROGRESS_NAME = "unfinished.json"
_INDEX_NAME = "index.safetensors"
_LOCK_NAME = ".lock"
_logger = logging.getLogger(__name__)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Create a directory and hold it alone.

    Raises:
        LockedError: Another process holds it.
        OutputError: It cannot be created or written to.
    """
    lock = filelock.FileLock(directory / _LOCK_NAME)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise LockedError(
            f"another generator is writing to {directory}; wait for it, or choose another directory"
        ) from error
    except OSError as error:
        raise OutputError(
            f"cannot write to {directory}: {error.strerror or error}. Choose a writable directory."
        ) from error
    try:
        yield
    finally:
        lock.release()


class OutputDirectory:
    """A shard set in the making; use it within `locked`.

    Args:
        directory: Where the set appears.
        settings: See `Manifest`.
        layout: Byte layout of a record.
        keys: The images, in row order.

    Raises:
        SettingsMismatchError: The directory holds a set, finished or not, with other settings.
        OutputError: The directory cannot be written to.
    """

    def __init__(
        self, directory: Path, settings: dict[str, Any], layout: RecordLayout, keys: KeyIndex
    ) -> None:
        self.directory = directory
        self._settings, self._layout, self._keys = settings, layout, keys
        self._set_id = settings_digest(settings)
        self._entries: dict[int, FileEntry] = {}
        self._claim()

    @property
    def is_finished(self) -> bool:
        """Whether the set is complete."""
        return (self.directory / MANIFEST_NAME).exists()

    def keep(self, number: int, shape: tuple[int, int], first_row: int) -> bool:
        """Keep a shard of an earlier run if it is there and whole.

        Args:
            number: Number of the shard.
            shape: (images, S).
            first_row: Row of its first image.

        Returns:
            Whether the shard need not be made again.
        """
        path = self.directory / shard_name(number)
        if not path.exists():
            return False
        try:
            shard = map_shard(
                path, layout=self._layout, shape=shape, first_row=first_row, set_id=self._set_id
            )
            self._check_records(path, shard)
        except FormatError as error:
            _logger.warning("making a shard again: %s", error)
            return False
        self._entries[number] = FileEntry(path.name, file_digest(path), shape[0])
        return True

    def add(self, number: int, shard: Shard) -> None:
        """Write a finished shard.

        Raises:
            OutputError: It cannot be written.
        """
        path = self.directory / shard_name(number)
        self._entries[number] = shard.write(path, self._layout, self._keys, self._set_id)

    def finish(self) -> Manifest:
        """Write key index and manifest: the set is complete.

        Raises:
            OutputError: A file cannot be written.
        """
        path = self.directory / _INDEX_NAME
        index = FileEntry(path.name, self._keys.save(path), len(self._keys))
        shards = tuple(self._entries[number] for number in sorted(self._entries))
        manifest = Manifest(self._settings, self._layout, index, shards, library_versions())
        manifest.save(self.directory)
        (self.directory / _PROGRESS_NAME).unlink(missing_ok=True)
        return manifest

    def _claim(self) -> None:
        """Compare the settings with those of what is already there, or write them down."""
        if self.is_finished:
            self._compare(Manifest.load(self.directory).settings, {})
            return
        path = self.directory / _PROGRESS_NAME
        mine = {"settings": self._settings, "versions": library_versions()}
        if path.exists():
            try:
                theirs = json.loads(path.read_text(encoding="utf-8"))
                self._compare(theirs["settings"], theirs["versions"])
            except (ValueError, KeyError, TypeError) as error:
                raise FormatError(
                    f"{path} is damaged ({error}); delete {self.directory}"
                ) from error
        elif any(self.directory.glob("*.safetensors")):
            raise SettingsMismatchError(
                f"{self.directory} holds safetensors files of unknown origin; choose an empty place"
            )
        for left_over in self.directory.glob(f"*{TEMPORARY_SUFFIX}"):
            left_over.unlink()
        write_file(path, [json.dumps(mine, indent=1, ensure_ascii=False).encode()])

    def _compare(self, settings: dict[str, Any], versions: dict[str, str]) -> None:
        theirs = {**settings, **versions}
        mine = {**self._settings, **{k: v for k, v in library_versions().items() if k in versions}}
        differing = [
            f"{name}: {theirs.get(name)!r} there, {mine.get(name)!r} now"
            for name in {**theirs, **mine}
            if theirs.get(name) != mine.get(name)
        ]
        if differing:
            raise SettingsMismatchError(
                f"{self.directory} was made with other settings ({'; '.join(differing)}). Use the "
                f"same ones to resume, or choose another directory."
            )

    def _check_records(self, path: Path, shard: Shard) -> None:
        for position, records in enumerate(shard.records):
            key = self._keys.encoded(shard.first_row + position)
            if self._layout.damaged(records, [key] * len(records)) is not None:
                raise FormatError(f"{path}: a record of image {key.decode()!r} is damaged")
