"""The output directory of a generation: has one writer, and keeps finished shards."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from typing import Any

from dr_plugins.errors import FormatError, OutputError, SettingsMismatchError
from dr_plugins.records import RecordLayout, set_checksum
from dr_plugins.shards.address import Place, located
from dr_plugins.shards.container import file_digest
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.location import TEMPORARY_SUFFIX, Location
from dr_plugins.shards.manifest import FileEntry, Manifest, library_versions, settings_digest
from dr_plugins.shards.reader import map_shard
from dr_plugins.shards.shard import Shard, shard_name
from dr_plugins.utils.files import LOCK_NAME, MANIFEST_NAME, PROGRESS_NAME

__all__ = ["OutputDirectory", "finished_set", "locked"]

_INDEX_NAME = "index.safetensors"
_LONGEST_VALUE = 120  # characters of a value in a message
_LEFT_OVER = re.compile(
    r"(?:(?:shard-[0-9]+|index)\.safetensors|(?:manifest|unfinished)\.json)\.tmp"
)
_logger = logging.getLogger(__name__)


def locked(directory: Place) -> contextlib.AbstractContextManager[None]:
    """Create a directory and hold it alone; see `Location.locked`."""
    return located(directory).locked()


class OutputDirectory:
    """A shard set that is being generated; use it within `locked`.

    Args:
        directory: Directory of the set.
        settings: See `Manifest`.
        layout: Byte layout of a record.
        keys: The images, in row order.
        versions: Libraries that make the set; None means those of this process.

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
    ) -> None:
        self.directory = located(directory)
        self._versions = library_versions() if versions is None else versions
        self._settings, self._layout, self._keys = settings, layout, keys
        self._set_id = settings_digest(settings)
        self._entries: dict[int, FileEntry] = {}
        self._finished = self._claim()

    @property
    def is_finished(self) -> bool:
        """Whether the set was already complete when this object was created."""
        return self._finished

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

    def finish(self) -> Manifest:
        """Write the key index and the manifest, which completes the set.

        Raises:
            OutputError: A file cannot be written.
        """
        path = self.directory / _INDEX_NAME
        index = FileEntry(path.name, self._keys.save(path), len(self._keys))
        shards = tuple(self._entries[number] for number in sorted(self._entries))
        manifest = Manifest(self._settings, self._layout, index, shards, self._versions)
        manifest.save(self.directory)
        (self.directory / PROGRESS_NAME).remove()
        return manifest

    def _claim(self) -> bool:
        """Compare the settings with the existing ones, or store them.

        Returns:
            Whether the set is complete.
        """
        path = self.directory / PROGRESS_NAME
        if (self.directory / MANIFEST_NAME).exists():
            return finished_set(self.directory, self._settings, self._versions) is not None
        mine = {"settings": self._settings, "versions": self._versions}
        if path.exists() and self._has_work():
            try:
                theirs = json.loads(path.read_text())
                _compare(self.directory, mine, theirs)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise FormatError(
                    f"{path} is damaged ({error!r}), so the settings of the shards next to it are "
                    f"unknown. Choose another directory, or delete this one."
                ) from error
        elif any(name.endswith(".safetensors") for name in self.directory.names()):
            raise SettingsMismatchError(
                f"{self.directory} holds safetensors files of unknown origin; choose an empty "
                f"directory"
            )
        for name in self.directory.names():
            if _LEFT_OVER.fullmatch(name):
                (self.directory / name).remove()
        path.write([json.dumps(mine, indent=1, ensure_ascii=False).encode()])
        return False

    def _has_work(self) -> bool:
        """Whether the directory holds more than a run that stopped before its first shard."""
        left = (PROGRESS_NAME, LOCK_NAME)
        names = self.directory.names()
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
    """
    directory = located(directory)
    if not (directory / MANIFEST_NAME).exists():
        return None
    manifest = Manifest.load(directory)
    files = [directory / entry.file for entry in (manifest.index, *manifest.shards)]
    missing = [file.name for file in files if not file.exists()]
    current = (library_versions() if versions is None else versions) if missing else {}
    mine = {"settings": settings, "versions": current}
    theirs = {"settings": manifest.settings, "versions": manifest.versions if missing else {}}
    _compare(directory, mine, theirs)
    if missing:
        _logger.warning("%d files are missing, such as %s", len(missing), missing[0])
        return None
    with contextlib.suppress(OutputError):
        (directory / PROGRESS_NAME).remove()
    return manifest


def _compare(directory: Location, mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    versions = theirs["versions"]
    current = {k: v for k, v in mine["versions"].items() if k in versions}
    there, now = _flat({**theirs["settings"], **versions}), _flat({**mine["settings"], **current})
    differing = [
        f"{name}: {_short(there, name)} there, {_short(now, name)} now"
        for name in {**there, **now}
        if name not in there or name not in now or there[name] != now[name]
    ]
    if differing:
        raise SettingsMismatchError(
            f"{directory} was made with other settings ({'; '.join(differing)}). Use the same ones "
            f"to resume, or choose another directory."
        )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with one entry per part of the policy, to name the part in a message."""
    policy = {f"policy {name}": value for name, value in settings["policy"].items()}
    return {**policy, **{name: value for name, value in settings.items() if name != "policy"}}


def _short(settings: dict[str, Any], name: str) -> str:
    text = repr(settings[name]) if name in settings else "absent"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
