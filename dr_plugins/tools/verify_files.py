"""Verifying the files of a shard set: checksums, structure, and every record, in parallel."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from dr_plugins.errors import FormatError, OutputError, ReinforcementError, WorkerError
from dr_plugins.records import set_checksum
from dr_plugins.shards import cache
from dr_plugins.shards.container import file_digest, unreadable
from dr_plugins.shards.location import Location
from dr_plugins.shards.manifest import FileEntry
from dr_plugins.shards.reader import ShardSet
from dr_plugins.shards.remote import RemotePath

_AHEAD = 4  # files that wait for each process
_logger = logging.getLogger(__name__)


class FileCheck(NamedTuple):
    """Outcome of checking one file.

    Attributes:
        entry: The file.
        problem: What is wrong with it; None if nothing is.
    """

    entry: FileEntry
    problem: str | None


class VerifiedFiles:
    """Remembers in a file which files of a set are intact, so that a stopped run continues.

    A file counts as unchanged while its path, size and modification time are the same; a remote
    one, while its server states the same version (an ETag, for example).

    Args:
        path: Text file with one JSON object per line; created if needed. None remembers nothing.
        shards: The set.
        records: Whether records are checked as well.

    Raises:
        FormatError: The file is something else.
        OutputError: It cannot be read or written.
    """

    def __init__(
        self, path: str | PathLike[str] | None, shards: ShardSet, *, records: bool
    ) -> None:
        self._path = None if path is None else Path(path)
        self._shards, self._records = shards, records
        self._seen = set(self._lines())
        if self._path is not None and self._line(shards.manifest.index) is None:
            _logger.warning(
                "%s does not say when its files change, so none is remembered in %s",
                shards.location,
                path,
            )

    def __contains__(self, entry: FileEntry) -> bool:
        return self._path is not None and self._line(entry) in self._seen

    def add(self, entry: FileEntry) -> None:
        """Remember an intact file."""
        line = self._line(entry)
        if self._path is None or line is None:
            return
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}") from error

    def _line(self, entry: FileEntry) -> str | None:
        try:
            version = _version(self._shards.location / entry.file)
        except OSError:
            return None
        facts = [entry.file, entry.sha256, *version, self._records]
        return json.dumps([self._shards.manifest.set_id, *facts]) if version else None

    def _lines(self) -> list[str]:
        if self._path is None or not self._path.exists():
            return []
        try:
            lines = self._path.read_text("utf-8").splitlines()
            if lines and not isinstance(json.loads(lines[0]), list):
                raise ValueError(lines[0])
        except OSError as error:
            raise OutputError(f"cannot read {self._path}: {error.strerror}") from error
        except ValueError as error:
            raise FormatError(
                f"{self._path} is not a list of verified files; choose another file"
            ) from error
        return lines


def _version(file: Location) -> list[Any]:
    """What changes with a file's content; empty if nothing is known to."""
    if not isinstance(file, RemotePath):
        path = Path(str(file)).resolve()  # a copy may have the same times
        return [str(path), path.stat().st_size, path.stat().st_mtime_ns]
    version = file.version()
    return [str(file), version] if version else []


def check_files(
    shards: ShardSet, *, workers: int, records: bool, verified: VerifiedFiles
) -> Iterator[FileCheck]:
    """Check all files that are not verified yet: first the index, then shards in any order.

    Args:
        shards: The set.
        workers: Processes; 0 uses this one.
        records: Also check every record against its checksum and its image's key.
        verified: Files to skip; intact ones are added.

    Raises:
        WorkerError: A process died.
    """
    manifest = shards.manifest
    entries = (manifest.index, *manifest.shards)
    pending = [number for number, entry in enumerate(entries) if entry not in verified]
    yield from (FileCheck(entry, None) for entry in entries if entry in verified)
    for number, problem in _problems(shards, pending, workers, records):
        if problem is None:
            verified.add(entries[number])
        yield FileCheck(entries[number], problem)


def _problems(
    shards: ShardSet, pending: list[int], workers: int, records: bool
) -> Iterator[tuple[int, str | None]]:
    checker = _Checker(shards, records)
    here = [number for number in pending if not workers or number == 0]
    yield from ((number, checker(number)) for number in here)
    if len(here) == len(pending):
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (shards, records)) as pool:
        there = pending[len(here) :]
        try:
            chunk = max(1, min(_AHEAD, len(there) // workers))
            yield from zip(there, pool.map(_check, there, chunksize=chunk), strict=True)
        except BrokenProcessPool as error:
            raise WorkerError(
                "a process that checks files died, maybe for lack of memory: use fewer --workers. "
                "With --resume, the files found intact so far are not checked again."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Checker:
    """Checks files by number: 0 is the index, the others are the shards from 0."""

    def __init__(self, shards: ShardSet, records: bool) -> None:
        self._shards, self._records = shards, records
        self._checksum = set_checksum(self._shards.manifest.set_id)

    def __call__(self, number: int) -> str | None:
        """Return what is wrong with a file."""
        shards = self._shards
        entry = shards.manifest.shards[number - 1] if number else shards.manifest.index
        path = shards.location / entry.file
        try:
            if _digest(path, entry) != entry.sha256:
                return (
                    f"{path} is damaged: its checksum differs from the manifest's. Copy it again."
                )
            if number == 0:
                _ = shards.keys
                _check_policy(shards)
            else:
                shards.shard(number - 1)
                if self._records:
                    self._check_records(number - 1)
        except ReinforcementError as error:
            return str(error)
        finally:
            shards.close_shards()
        return None

    def _check_records(self, number: int) -> None:
        shards, layout = self._shards, self._shards.manifest.layout
        for row, records in zip(shards.rows(number), shards.shard(number).records, strict=True):
            key = shards.keys.encoded(row)
            if layout.damaged(records, [key] * len(records), self._checksum) is not None:
                raise FormatError(
                    f"{shards.location / shards.manifest.shards[number].file}: a record of image "
                    f"{shards.keys[row]!r} fails its checksum, although the file is as it was "
                    f"written: it was made by a faulty writer, or with another index"
                )


def _digest(file: Location, entry: FileEntry) -> str:
    if isinstance(file, RemotePath) and cache.find(entry.sha256) is None:
        try:
            file.local(entry.sha256)  # comes once, and is compared on arrival
        except OSError as error:
            raise unreadable(file, error) from error
        return entry.sha256
    return file_digest(file)


def _check_policy(shards: ShardSet) -> None:
    # Imported late: the processes that check shards start fast without PyTorch.
    from dr_plugins.replay.stored_policy import stored_policy

    stored_policy(shards)


_checker: _Checker | None = None  # of a worker process


def _start(shards: ShardSet, records: bool) -> None:
    global _checker
    _checker = _Checker(shards, records)


def _check(number: int) -> str | None:
    assert _checker is not None
    return _checker(number)
