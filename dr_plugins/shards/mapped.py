"""The shards of a set that this process has mapped."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dr_plugins.errors import FormatError
from dr_plugins.records import RecordLayout
from dr_plugins.shards.address import Place
from dr_plugins.shards.container import map_tensors, unreadable
from dr_plugins.shards.location import Location
from dr_plugins.shards.manifest import Manifest
from dr_plugins.shards.remote import RemotePath
from dr_plugins.shards.shard import FINGERPRINT_BYTES, Shard
from dr_plugins.shards.streaming import ShardStream

# Per set and process. Linux allows a process 65,530 maps.
_MOST_OPEN = 8192


def map_shard(
    path: Place, *, layout: RecordLayout, shape: tuple[int, int], first_row: int, set_id: str
) -> Shard:
    """Map one shard file and check that it is the expected one.

    Args:
        path: The shard's file.
        layout: Byte layout of its records.
        shape: (images, S).
        first_row: Row of its first image.
        set_id: `Manifest.set_id` of the expected set.

    Returns:
        A shard of read-only arrays over the mapped file.

    Raises:
        FormatError: The file is missing, truncated, damaged, or belongs to another set or place.
    """
    tensors, metadata = map_tensors(path)
    images, samples = shape
    expected = {
        "labels": (np.int32, (images,)),
        "sizes": (np.int32, (images, 2)),
        "fingerprints": (np.uint8, (images, FINGERPRINT_BYTES)),
        "records": (np.uint8, (images, samples, layout.itemsize)),
    }
    if "fingerprinted" in tensors:
        expected["fingerprinted"] = (np.int32, (images,))
    found: dict[str, Any] = {name: (t.dtype, t.shape) for name, t in tensors.items()}
    if found != expected:
        raise FormatError(f"{path} holds {found}, expected {expected}. Copy it again.")
    records = tensors.pop("records").view(layout.dtype)[..., 0]
    shard = Shard(first_row, records, **tensors)
    origin = shard.origin(set_id)
    if metadata != origin:
        raise FormatError(
            f"{path} is damaged, or belongs to another shard set or another place in it: found "
            f"{metadata}, expected {origin}. If the set was replaced while in use, start again; "
            f"otherwise copy the whole directory again."
        )
    chosen = shard.fingerprinted
    if chosen is not None and images and not 0 <= chosen.min() <= chosen.max() < samples:
        raise FormatError(
            f"{path} has fingerprints of samples {chosen.min()} to {chosen.max()}, but {samples} "
            f"samples per image: it was made by a faulty writer"
        )
    return shard


class MappedShard(NamedTuple):
    """A shard whose file is mapped.

    Attributes:
        content: The shard.
        raw: The bytes of its records.
        file: The file.
        size: Its bytes.
        is_partial: Whether some of the records may be missing.
    """

    content: Shard
    raw: memoryview
    file: Location
    size: int
    is_partial: bool

    def check_size(self) -> None:
        """Check that the file is still as long as its map.

        Raises:
            FormatError: It is shorter: reading the rest of the map would end the process (SIGBUS).
        """
        size = _size(self.file)
        if size is not None and size < self.size:
            raise FormatError(
                f"{self.file} was shortened from {self.size} to {size} bytes while in use. Copy it "
                f"again, and start again."
            )


def _size(file: Location) -> int | None:
    """Bytes of a file; None if it was deleted, which leaves its map readable."""
    try:
        return file.size()
    except OSError:
        return None


def mapped_shards(location: Location, manifest: Manifest) -> MappedShards:
    """Return the shards of a set, none of them mapped yet."""
    if isinstance(location, RemotePath):
        return StreamedShards(location, manifest)
    return MappedShards(location, manifest)


class MappedShards:
    """Shards that are mapped when they are needed; with many, the oldest are closed.

    Args:
        location: The set's directory.
        manifest: Its manifest.

    Attributes:
        open: Those that are mapped, by number.
        starts: Row of the first image of each shard, and the number of images.
        is_here: Whether records can be read without `bring`.
    """

    is_here = True

    def __init__(self, location: Location, manifest: Manifest) -> None:
        self.location, self.manifest = location, manifest
        counts = (entry.images for entry in manifest.shards)
        self.starts = list(itertools.accumulate(counts, initial=0))
        self.open: OrderedDict[int, MappedShard] = OrderedDict()

    def get(self, number: int) -> MappedShard:
        """Return a shard; a remote one may be partial.

        Raises:
            FormatError: It is missing or damaged.
        """
        return self.open.get(number) or self._keep(number, self._file(number))

    def whole(self, number: int) -> Shard:
        """Return a shard with all its records; raises the errors of `get`."""
        return self.get(number).content

    def map(self, number: int) -> Shard:
        """Map a shard anew, for reading it once; raises the errors of `get`."""
        return self._map(number, self._file(number))

    def bring(self, wanted: Sequence[tuple[int, int]], is_here: Callable[..., bool]) -> None:
        """Make sure that records can be read; those of local shards can.

        Args:
            wanted: (number of the shard, number of the record in it) of each.
            is_here: Whether the bytes of a record, the n-th of `wanted`, are intact.
        """

    def check_sizes(self, numbers: Iterable[int]) -> None:
        """Check shards of which some may be mapped; see `MappedShard.check_size`."""
        for number in numbers:
            if (shard := self.open.get(number)) is not None:
                shard.check_size()

    def repair(self, number: int) -> bool:
        """Replace a shard with a damaged record by a better copy, if there is one."""
        return False

    def close(self) -> None:
        """Close all maps; they are opened again on demand."""
        self.open.clear()

    def _file(self, number: int) -> Location:
        return self.location / self.manifest.shards[number].file

    def _map(self, number: int, file: Location) -> Shard:
        entry = self.manifest.shards[number]
        return map_shard(
            file,
            layout=self.manifest.layout,
            shape=(entry.images, self.manifest.samples),
            first_row=self.starts[number],
            set_id=self.manifest.set_id,
        )

    def _keep(self, number: int, file: Location, is_partial: bool = False) -> MappedShard:
        content = self._map(number, file)
        raw = content.records.view(np.uint8).reshape(-1).data
        if len(self.open) >= _MOST_OPEN:
            self.open.popitem(last=False)  # the oldest
        self.open[number] = MappedShard(content, raw, file, _size(file) or 0, is_partial)
        return self.open[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "open": OrderedDict()}


class StreamedShards(MappedShards):
    """The shards of a remote set: partial ones at first, whole ones when they have arrived."""

    def __init__(self, location: RemotePath, manifest: Manifest) -> None:
        super().__init__(location, manifest)
        self._stream = ShardStream(location, manifest)
        self.is_here = False

    def get(self, number: int) -> MappedShard:
        """See `MappedShards.get`."""
        return self.open.get(number) or self._open([number])[0]

    def whole(self, number: int) -> Shard:
        """See `MappedShards.whole`."""
        shard = self.get(number)
        return (self._fetch(number) if shard.is_partial else shard).content

    def map(self, number: int) -> Shard:
        """See `MappedShards.map`."""
        return self._fetch(number).content

    def bring(self, wanted: Sequence[tuple[int, int]], is_here: Callable[..., bool]) -> None:
        """Read those records from the server that are not here, all at the same time."""
        numbers = {number for number, _ in wanted}
        self._open(sorted(numbers - self.open.keys()))
        for number in numbers & self.open.keys():
            if self.open[number].is_partial and (file := self._stream.whole(number)) is not None:
                self._keep(number, file)
        size = self.manifest.layout.itemsize
        missing = []
        for position, (number, index) in enumerate(wanted):
            shard = self.get(number)
            record = shard.raw[index * size : (index + 1) * size]
            if shard.is_partial and not is_here(record, position):
                missing.append((number, index))
        self._stream.fill(missing)
        self.is_here = len(self.open) == len(self.manifest.shards) and not any(
            shard.is_partial for shard in self.open.values()
        )

    def repair(self, number: int) -> bool:
        """Fetch the whole shard, also in place of a damaged one in the cache."""
        self._fetch(number)
        return True

    def _open(self, numbers: Sequence[int]) -> list[MappedShard]:
        try:
            files = self._stream.open(numbers)
        except OSError as error:
            raise unreadable(self.location, error) from error
        return [self._keep(n, file, self._stream.is_partial(file)) for n, file in files.items()]

    def _fetch(self, number: int) -> MappedShard:
        try:
            return super()._keep(number, self._stream.fetch(number))
        except OSError as error:
            raise unreadable(self.location, error) from error

    def _keep(self, number: int, file: Location, is_partial: bool = False) -> MappedShard:
        try:
            return super()._keep(number, file, is_partial)
        except FormatError:  # damaged, or another process has just replaced or evicted it
            return self._fetch(number)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "is_here": False}
