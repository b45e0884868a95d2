"""The output directory of a generation: keeps finished shards, and what the set is to become."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterable
from typing import Any

from dr_plugins.errors import FormatError, OutputError, SettingsMismatchError
from dr_plugins.records import RecordLayout, set_checksum
from dr_plugins.shards.address import Place, located
from dr_plugins.shards.container import file_digest
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.location import TEMPORARY_SUFFIX, Location
from dr_plugins.shards.manifest import FileEntry, Manifest, library_versions, settings_digest
from dr_plugins.shards.mapped import map_shard
from dr_plugins.shards.remote import RemotePath
from dr_plugins.shards.shard import Shard, shard_name
from dr_plugins.shards.unfinished import (
    compare_settings,
    damaged,
    failure_name,
    read_failure,
    read_progress,
)
from dr_plugins.utils.files import LOCK_NAME, MANIFEST_NAME, PROGRESS_NAME

_INDEX_NAME = "index.safetensors"
_FAILED = re.compile(r"failed-[0-9]+\.json")
_MADE = re.compile(r"(?:shard-[0-9]+|index)\.safetensors")
_LEFT_OVER = re.compile(
    r"(?:(?:shard-[0-9]+|index)\.safetensors|(?:manifest|unfinished|failed-[0-9]+)\.json)\.tmp"
)
_logger = logging.getLogger(__name__)


class OutputDirectory:
    """A shard set that is being generated; use it within `locked`, or prepare it in `joined`.

    Args:
        directory: Directory of the set.
        settings: See `Manifest`.
        layout: Byte layout of a record.
        keys: The images, in row order.
        versions: Libraries that make the set; None means those of this process.
        alone: Whether no other process works in the directory; otherwise nothing is changed here.

    Raises:
        SettingsMismatchError: The directory holds a set, finished or not, with other settings.
        OutputError: The directory cannot be written to.
    """

    def __init__(
        self,
        directory: Place,
        settings: dict[str, Any],
        layout: RecordLayout,
        keys: KeyIndex,
        versions: dict[str, str] | None = None,
        *,
        alone: bool = True,
    ) -> None:
        self.directory = located(directory)
        self._versions = library_versions() if versions is None else versions
        self._settings, self._layout, self._keys = settings, layout, keys
        self._set_id = settings_digest(settings)
        self._entries: dict[int, FileEntry] = {}
        self._finished = self._claim(alone)

    @property
    def is_finished(self) -> bool:
        """Whether the set was already complete when this object was created."""
        return self._finished

    @classmethod
    def reopen(cls, directory: Place) -> OutputDirectory:
        """Open an unfinished set as the processes that make it described it.

        Raises:
            FormatError: There is no unfinished set, or it is damaged.
        """
        place = located(directory)
        progress = read_progress(place)
        keys = KeyIndex.load(place / _INDEX_NAME)
        if keys.digest() != progress["settings"].get("keys"):
            raise FormatError(
                f"{place / _INDEX_NAME} holds other images than {PROGRESS_NAME} names. Run the "
                f"`dr-plugins reinforce` command again."
            )
        layout = RecordLayout.from_json(progress["record"])
        return cls(place, progress["settings"], layout, keys, progress["versions"], alone=False)

    @property
    def settings(self) -> dict[str, Any]:
        """See `Manifest`."""
        return self._settings

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Return which shards are not there, by the names in the directory."""
        names = set(self.directory.names())
        return [number for number in numbers if shard_name(number) not in names]

    def has(self, number: int) -> bool:
        """Return whether a shard is there."""
        return (self.directory / shard_name(number)).exists()

    def discard(self, number: int) -> None:
        """Delete a damaged shard."""
        (self.directory / shard_name(number)).remove()

    def note_failure(self, number: int, by: str, message: str) -> None:
        """Store why a process could not make a shard, for `failure` and for users."""
        text = json.dumps({"by": by, "error": message}, indent=1, ensure_ascii=False)
        file = self.directory / failure_name(number)
        file.write([text.encode(errors="surrogateescape")])

    def failure(self, number: int) -> str | None:
        """Return why a shard could not be made, None if nobody failed."""
        return read_failure(self.directory / failure_name(number))

    def keep(self, number: int, shape: tuple[int, int], first_row: int) -> bool:
        """Keep a shard of an earlier run if it exists and is intact.

        Args:
            number: Number of the shard.
            shape: (images, S).
            first_row: Row of its first image.

        Returns:
            Whether the shard was kept.
        """
        path = self.directory / shard_name(number)
        if number in self._entries:
            return True
        if not path.exists():
            return False
        try:
            self._check_records(path, self.stored(number, shape, first_row))
        except FormatError as error:
            _logger.warning("generating a shard again: %s", error)
            return False
        self._entries[number] = FileEntry(path.name, file_digest(path), shape[0])
        return True

    def stored(self, number: int, shape: tuple[int, int], first_row: int) -> Shard:
        """Map a finished shard; takes the arguments of `keep`.

        Raises:
            FormatError: It is missing, damaged, or belongs to another set or place.
        """
        path = self.directory / shard_name(number)
        return map_shard(
            path, layout=self._layout, shape=shape, first_row=first_row, set_id=self._set_id
        )

    def add(self, number: int, shard: Shard) -> None:
        """Write a finished shard.

        Raises:
            OutputError: It cannot be written.
        """
        path = self.directory / shard_name(number)
        self._entries[number] = shard.write(path, self._layout, self._keys, self._set_id)

    def register(self, number: int, entry: FileEntry) -> None:
        """Register a shard that another process wrote with `Shard.save`."""
        self._entries[number] = entry

    @property
    def set_id(self) -> str:
        """`Manifest.set_id` of the set, stored in every shard."""
        return self._set_id

    def save_index(self) -> FileEntry:
        """Write the key index, with which another process can finish the set."""
        path = self.directory / _INDEX_NAME
        return FileEntry(path.name, self._keys.save(path), len(self._keys))

    def finish(self) -> Manifest:
        """Write the key index and the manifest, which completes the set.

        Raises:
            OutputError: A file cannot be written.
        """
        index = self.save_index()
        shards = tuple(self._entries[number] for number in sorted(self._entries))
        manifest = Manifest(self._settings, self._layout, index, shards, self._versions)
        for name in self.directory.names():
            if _FAILED.fullmatch(name):
                (self.directory / name).remove()
        manifest.save(self.directory)
        (self.directory / PROGRESS_NAME).remove()
        return manifest

    def abandon(self) -> None:
        """Delete what was made of a set that cannot be completed."""
        for name in self.directory.names():
            if name in (LOCK_NAME, PROGRESS_NAME) or _MADE.fullmatch(name):
                (self.directory / name).remove()

    def _claim(self, alone: bool) -> bool:
        """Compare the settings with the existing ones, or store them.

        Returns:
            Whether the set is complete.
        """
        path = self.directory / PROGRESS_NAME
        if (self.directory / MANIFEST_NAME).exists():
            return finished_set(self.directory, self._settings, self._versions) is not None
        mine = {"settings": self._settings, "versions": self._versions}
        if path.exists() and (self._has_work() or not alone):
            try:
                compare_settings(self.directory, mine, read_progress(self.directory))
            except (KeyError, TypeError, AttributeError) as error:
                raise damaged(path, error) from error
        elif self._has_foreign_files(path.exists()):
            raise SettingsMismatchError(
                f"{self.directory} holds safetensors files of unknown origin; choose an empty "
                f"directory"
            )
        if not alone:
            return False
        for name in self.directory.names():
            if _LEFT_OVER.fullmatch(name) or _FAILED.fullmatch(name):
                (self.directory / name).remove()
        mine["record"] = self._layout.to_json()
        path.write([json.dumps(mine, indent=1, ensure_ascii=False).encode()])
        return False

    def _has_foreign_files(self, begun: bool) -> bool:
        ours = {_INDEX_NAME} if begun else set()
        return any(n.endswith(".safetensors") for n in {*self.directory.names()} - ours)

    def _has_work(self) -> bool:
        """Whether the directory holds more than a run that stopped before its first shard."""
        left = (PROGRESS_NAME, LOCK_NAME, _INDEX_NAME)
        names = [name for name in self.directory.names() if not _FAILED.fullmatch(name)]
        return any(name not in left and not name.endswith(TEMPORARY_SUFFIX) for name in names)

    def _check_records(self, path: Location, shard: Shard) -> None:
        start = set_checksum(self._set_id)
        for position, records in enumerate(shard.records):
            key = self._keys.encoded(shard.first_row + position)
            if self._layout.damaged(records, [key] * len(records), start) is not None:
                raise FormatError(f"{path}: a record of image {key.decode()!r} is damaged")


def finished_set(
    directory: Place, settings: dict[str, Any], versions: dict[str, str] | None = None
) -> Manifest | None:
    """Return the set in a directory if there is nothing left to do; writable it need not be.

    Args:
        directory: Where the set may be.
        settings: The settings that the set should have.
        versions: Libraries that would make missing files; None means those of this process.

    Returns:
        The manifest; None if the set is unfinished or misses a file.

    Raises:
        SettingsMismatchError: The set was made with other settings.
        FormatError: Its manifest is damaged.
        OutputError: The directory is remote.
    """
    directory = located(directory)
    if isinstance(directory, RemotePath):
        directory.refuse()
    if not (directory / MANIFEST_NAME).exists():
        return None
    manifest = Manifest.load(directory)
    files = [directory / entry.file for entry in (manifest.index, *manifest.shards)]
    missing = [file.name for file in files if not file.exists()]
    current = (library_versions() if versions is None else versions) if missing else {}
    mine = {"settings": settings, "versions": current}
    theirs = {"settings": manifest.settings, "versions": manifest.versions if missing else {}}
    compare_settings(directory, mine, theirs)
    if missing:
        _logger.warning("%d files are missing, such as %s", len(missing), missing[0])
        return None
    with contextlib.suppress(OutputError):
        (directory / PROGRESS_NAME).remove()
    return manifest
