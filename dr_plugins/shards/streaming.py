"""Reading records of a remote set at once, while its shards are still arriving.

Random access touches most shards within a few batches, and whole shards of a large set take
minutes to hours to arrive. So the first records are read by byte ranges, all those of a batch at
the same time, into *partial* shards: sparse files of the shard's size, shared by all processes of a
machine. A record that is not there yet is zeros, which fail its checksum; so does a damaged one.
Meanwhile one process of the machine fetches whole shards into the cache, and each process changes
over to them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import filelock

from dr_plugins.errors import ReinforcementError
from dr_plugins.shards import cache
from dr_plugins.shards.location import LocalPath, Location
from dr_plugins.shards.manifest import FileEntry, Manifest
from dr_plugins.shards.remote import RemotePath, read_ranges
from dr_plugins.utils.files import cache_directory

_PARTIAL = "partial"  # folder of the cache
_STREAMS = 4  # whole shards that are fetched at the same time
_LONGEST_HEADER = 2048  # of a safetensors file of ours: 8 bytes and some 500 of JSON
_IMAGE_BYTES = 4 + 8 + 8  # label, size and fingerprint of an image
_SAMPLE_BYTES = 4  # which sample has the fingerprint, in some sets
_POLL = 5.0  # seconds between looks whether the process that fetches is still there
_logger = logging.getLogger(__name__)


class ShardStream:
    """Where the shards of a remote set are on this machine, so far as they have arrived.

    Args:
        location: The set's directory.
        manifest: Its manifest.
    """

    def __init__(self, location: RemotePath, manifest: Manifest) -> None:
        self._location, self._manifest = location, manifest
        self._fetcher: threading.Thread | None = None
        self._process = 0

    def whole(self, number: int) -> Location | None:
        """Return a shard of the cache, None if it has not arrived."""
        return cache.find(self._manifest.shards[number].sha256)

    def is_partial(self, file: Location) -> bool:
        """Return whether a file that `open` returned is a partial shard."""
        return isinstance(file, LocalPath) and file.path.parent.name == _PARTIAL

    def open(self, numbers: Sequence[int]) -> dict[int, Location]:
        """Return local files of several shards: whole, or partial with at least the images' data.

        Raises:
            FormatError: A shard is damaged.
            OSError: One cannot be read.
        """
        found = {number: self.whole(number) or self._partial(number) for number in numbers}
        lacking = [number for number, file in found.items() if file is None]
        entries = [self._manifest.shards[number] for number in lacking]
        each = _IMAGE_BYTES + _SAMPLE_BYTES
        ends = [min(_LONGEST_HEADER + e.images * each, self._least(e)) for e in entries]
        files = [self._location / entry.file for entry in entries]
        beginnings = read_ranges(files, [0] * len(entries), ends)
        for number, entry, beginning in zip(lacking, entries, beginnings, strict=True):
            found[number] = self._begin(entry, beginning) or self.fetch(number)
        self._fetch_ahead()
        return {number: file for number, file in found.items() if file is not None}

    def fetch(self, number: int) -> Location:
        """Fetch a whole shard, also where the cache holds a damaged one.

        Raises:
            FormatError: It is damaged.
            OSError: It cannot be read.
        """
        entry = self._manifest.shards[number]
        cache.discard_damaged(entry.sha256)
        file = (self._location / entry.file).local(entry.sha256)
        _partial_path(entry).unlink(missing_ok=True)
        return file

    def fill(self, wanted: Sequence[tuple[int, int]]) -> None:
        """Read records into partial shards; those that cannot be read stay as they are.

        Args:
            wanted: (number of the shard, number of the record in it) of each.
        """
        record, samples = self._manifest.layout.itemsize, self._manifest.samples
        places = []
        for number, index in wanted:
            entry = self._manifest.shards[number]
            with contextlib.suppress(FileNotFoundError):  # replaced by the whole shard
                size = _partial_path(entry).stat().st_size  # the records end the file
                places.append((entry, size - (entry.images * samples - index) * record))
        files = [self._location / entry.file for entry, _ in places]
        starts = [start for _, start in places]
        found = read_ranges(files, starts, [start + record for start in starts])
        for (entry, start), data in zip(places, found, strict=True):
            if data is not None:
                with contextlib.suppress(FileNotFoundError), cache.writing():
                    _write(_partial_path(entry), data, start)

    def _least(self, entry: FileEntry) -> int:
        """Bytes that a shard has at least."""
        record = self._manifest.layout.itemsize
        return entry.images * (_IMAGE_BYTES + self._manifest.samples * record)

    def _partial(self, number: int) -> LocalPath | None:
        path = _partial_path(self._manifest.shards[number])
        return LocalPath(path) if path.exists() else None

    def _begin(self, entry: FileEntry, beginning: bytes | None) -> LocalPath | None:
        """Create a partial shard; None where its beginning is not what it should be."""
        if beginning is None:
            return None
        length = 8 + int.from_bytes(beginning[:8], "little")
        try:
            facts, end = json.loads(beginning[8:length])["records"]["data_offsets"]
        except (ValueError, LookupError, TypeError):
            return None
        records = entry.images * self._manifest.samples * self._manifest.layout.itemsize
        if not 0 <= facts <= len(beginning) - length or end - facts != records:
            return None
        path = _partial_path(entry)
        with cache.writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(uuid.uuid4().hex)
            try:
                with open(temporary, "xb") as file:  # not tempfile's, which only one user may read
                    file.write(beginning)
                    file.truncate(length + end)
                with contextlib.suppress(FileExistsError):  # another process was faster
                    os.link(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        return LocalPath(path)

    def _fetch_ahead(self) -> None:
        """Start to fetch whole shards, once in each process that reads."""
        if self._fetcher is None or self._process != os.getpid():
            self._process = os.getpid()
            self._fetcher = threading.Thread(target=self._fetch_all, daemon=True)
            self._fetcher.start()

    def _fetch_all(self) -> None:
        """Fetch all shards, or wait for another process that does."""
        lock = filelock.FileLock(cache_directory() / "locks" / self._manifest.set_id)
        try:
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            while not _try(lock):
                time.sleep(_POLL)
            cache.discard_leftovers()
            numbers = [n for n in range(len(self._manifest.shards)) if self.whole(n) is None]
            random.Random(os.getpid()).shuffle(numbers)
            # Not a pool of concurrent.futures, which would let nobody exit before it has finished.
            streams = [
                threading.Thread(target=self._fetch_each, args=(numbers[i::_STREAMS],), daemon=True)
                for i in range(_STREAMS)
            ]
            for stream in streams:
                stream.start()
            for stream in streams:
                stream.join()
        except OSError as error:
            _logger.warning("shards of %s are not fetched ahead: %s", self._location, error)
        finally:
            lock.release()

    def _fetch_each(self, numbers: Sequence[int]) -> None:
        names = frozenset(entry.sha256 for entry in self._manifest.shards)
        for number in numbers:
            if not cache.make_room(self._least(self._manifest.shards[number]), names):
                _logger.warning("the cache has no room for all shards of %s", self._location)
                return
            try:
                self.fetch(number)
            except (OSError, ReinforcementError) as error:
                # What is needed of it is still read by ranges, which reports what is wrong.
                _logger.warning("a shard of %s is not fetched ahead: %s", self._location, error)

    def __reduce__(self) -> tuple[Callable[..., ShardStream], tuple[RemotePath, Manifest]]:
        return ShardStream, (self._location, self._manifest)


def _partial_path(entry: FileEntry) -> Path:
    return cache_directory() / _PARTIAL / entry.sha256


def _write(path: Path, data: bytes, offset: int) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, data, offset)
    finally:
        os.close(descriptor)


def _try(lock: filelock.FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return False
    return True
