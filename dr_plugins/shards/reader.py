"""Reading a shard set: a lazy, picklable collection of reinforcements addressed by image key."""

from __future__ import annotations

import bisect
import itertools
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dr_plugins.errors import FormatError
from dr_plugins.records import RecordLayout, is_whole, set_checksum
from dr_plugins.shards.address import Place, located
from dr_plugins.shards.container import map_tensors, unreadable
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.location import Location
from dr_plugins.shards.manifest import Manifest
from dr_plugins.shards.remote import RemotePath
from dr_plugins.shards.shard import FINGERPRINT_BYTES, Shard
from dr_plugins.shards.streaming import ShardStream
from dr_plugins.shards.watch import Watch

__all__ = ["ImageInfo", "ShardSet", "map_shard"]


class ImageInfo(NamedTuple):
    """What a shard set stores about one image, apart from its reinforcements.

    Attributes:
        label: The dataset's class when the set was made, -1 if unknown.
        size: (height, width) in pixels, (0, 0) if unknown.
        fingerprint: 8-byte digest of one of its augmented views; None if unknown.
        fingerprinted: The sample of this view.
    """

    label: int
    size: tuple[int, int]
    fingerprint: bytes | None
    fingerprinted: int


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


# Per set and process. Linux allows a process 65,530 maps.
_MOST_OPEN = 8192


class _OpenShard(NamedTuple):
    content: Shard
    raw: memoryview  # the bytes of all records
    is_partial: bool  # see `ShardStream`


class ShardSet:
    """Reinforcements, read through memory maps.

    Only the manifest is opened at first. Each worker process opens its own maps when it needs them,
    and closes the oldest when there are many.
    Records are numpy structured arrays whose fields are listed in ``manifest.layout``. Every record
    is checked when it is read; its checksum covers the set's id and its image's key.

    Args:
        directory: The shard set: a local path, or an address that fsspec knows, such as
            ``s3://bucket/imagenet-plus``. A remote set is kept in `$DR_PLUGINS_CACHE`.

    Raises:
        FormatError: The manifest is missing or damaged.
        VersionError: The set was written by a newer format version.

    Example:
        >>> shards = ShardSet("imagenet-plus")                              # doctest: +SKIP
        >>> record = shards["n01440764/n01440764_10026.JPEG", 17]           # doctest: +SKIP
        >>> record["ids"], record["probs"]                                  # doctest: +SKIP
    """

    def __init__(self, directory: Place) -> None:
        self.location = located(directory)
        self.manifest = Manifest.load(self.location)
        counts = (entry.images for entry in self.manifest.shards)
        self._starts = list(itertools.accumulate(counts, initial=0))
        self._samples, self._size = self.manifest.samples, self.manifest.layout.itemsize
        self._dtype = self.manifest.layout.dtype
        self._checksum = set_checksum(self.manifest.set_id)
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._watch = Watch(self.location, self.manifest)
        self._stream: ShardStream | None = None
        self._is_here = False  # whether all shards of a remote set are mapped, whole
        if isinstance(self.location, RemotePath):
            self._stream = ShardStream(self.location, self.manifest)

    @property
    def directory(self) -> Path:
        """The shard set's directory."""
        return Path(str(self.location))

    @cached_property
    def keys(self) -> KeyIndex:
        """The image keys, in row order."""
        path = self.location / self.manifest.index.file
        keys = KeyIndex.load(path, self.manifest.index.sha256)
        if len(keys) != len(self):
            raise FormatError(f"{path} holds {len(keys)} images, the manifest says {len(self)}")
        return keys

    def __len__(self) -> int:
        """Return the number of images."""
        return self.manifest.index.images

    def __getitem__(self, item: tuple[str | int, int]) -> np.void:
        """Return one reinforcement.

        Args:
            item: (image key or row, number of the reinforcement within ``[0, S)``).

        Raises:
            UnknownImageError: The key is not in the set.
            IndexError: The row or the number is out of range.
            FormatError: The record or its shard is missing or damaged.
        """
        image, sample = item
        row = self.keys.row(image) if isinstance(image, str) else image
        return np.frombuffer(self._record(row, sample), self._dtype)[0]

    def __getitems__(self, items: Sequence[tuple[str | int, int]]) -> np.ndarray:
        """Return many reinforcements, as a structured array ``[len(items)]``; see `__getitem__`."""
        rows = [self.keys.row(i) if isinstance(i, str) else int(i) for i, _ in items]
        return self.read(np.array(rows, np.int64), np.array([s for _, s in items], np.int64))

    def read(self, rows: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Return one reinforcement of each of many images.

        Args:
            rows: int64 ``[B]``, image rows; see `KeyIndex.rows`.
            samples: int64 ``[B]``, within ``[0, S)``.

        Returns:
            Structured array ``[B]``, read-only (a copy of B records).

        Raises:
            IndexError: A row or sample is out of range.
            ValueError: `rows` and `samples` differ in length.
            FormatError: A record fails its checksum, or a shard is missing or damaged.
        """
        if self._stream is not None and not self._is_here:
            self._is_here = self._stream_records(self._stream, rows, samples)
        pairs = zip(rows.tolist(), samples.tolist(), strict=True)
        records = [self._record(row, sample) for row, sample in pairs]
        return np.frombuffer(b"".join(records), self._dtype)

    def check_in_place(self) -> None:
        """Check that the set was not replaced since it was opened.

        Raises:
            FormatError: It was, or it was deleted.
        """
        self._watch.check()

    def image(self, row: int) -> ImageInfo:
        """Return what the set stores about one image.

        Raises:
            IndexError: The row is out of range.
            FormatError: The image's shard is missing or damaged.
        """
        number, position = self._locate(row)
        shard = self._shard(number).content
        height, width = shard.sizes[position].tolist()
        fingerprint = shard.fingerprints[position]
        return ImageInfo(
            int(shard.labels[position]),
            (height, width),
            fingerprint.tobytes() if fingerprint.any() else None,
            shard.fingerprinted_sample_of(position),
        )

    def records(self, number: int) -> np.ndarray:
        """Return all records of shard `number` as a mapped array ``[images, S]``, unchecked."""
        shard = self._shard(number)
        return (self._complete(number) if shard.is_partial else shard).content.records

    def shard(self, number: int) -> Shard:
        """Map shard `number` anew, unchecked, for reading it once.

        Raises:
            FormatError: It is missing or damaged.
        """
        if self._stream is not None:
            return self._complete(number).content
        return self._map(number, self.location / self.manifest.shards[number].file)

    def rows(self, number: int) -> range:
        """Return the image rows of shard `number`."""
        return range(self._starts[number], self._starts[number + 1])

    def close_shards(self) -> None:
        """Close the memory maps of all shards; they are opened again on demand."""
        self._open.clear()

    def close(self) -> None:
        """Close all memory maps; the set stays usable and opens them again on demand."""
        self.close_shards()
        self.__dict__.pop("keys", None)

    def _record(self, row: int, sample: int, is_last: bool = False) -> memoryview:
        """The bytes of one record, checked. This is the hot path, hence plain Python.

        A remote set's shard is fetched, again if need be, before the record counts as damaged.
        """
        number, position = self._locate(row)
        if not 0 <= sample < self._samples:
            raise IndexError(f"reinforcement {sample} of {self._samples} per image")
        offset = (position * self._samples + sample) * self._size
        shard = self._open.get(number) or self._shard(number)
        record = shard.raw[offset : offset + self._size]
        if not is_whole(record, self.keys.encoded(row), self._checksum):
            if self._stream is not None and not is_last:
                self._complete(number)
                return self._record(row, sample, is_last=True)
            raise FormatError(
                f"{self.location / self.manifest.shards[number].file}: a record of image "
                f"{self.keys[row]!r} is damaged, or belongs to another image or shard set. If the "
                f"set was replaced while in use, start again; otherwise copy the shard and the "
                f"index again. `dr-plugins verify` lists every damaged file."
            )
        return record

    def _locate(self, row: int) -> tuple[int, int]:
        """The number of a row's shard, and the row's position in it."""
        if not 0 <= row < self._starts[-1]:
            raise IndexError(f"row {row} of a set of {len(self)} images")
        number = bisect.bisect_right(self._starts, row) - 1
        return number, row - self._starts[number]

    def _shard(self, number: int) -> _OpenShard:
        return self._open.get(number) or self._keep(number, self._find([number])[number])

    def _find(self, numbers: Sequence[int]) -> dict[int, Location]:
        """The files of shards, whole or partial."""
        files = {number: self.location / self.manifest.shards[number].file for number in numbers}
        if self._stream is None:
            return files
        try:
            return self._stream.open(numbers)
        except OSError as error:
            raise unreadable(self.location, error) from error

    def _map(self, number: int, file: Location) -> Shard:
        entry = self.manifest.shards[number]
        return map_shard(
            file,
            layout=self.manifest.layout,
            shape=(entry.images, self.manifest.samples),
            first_row=self._starts[number],
            set_id=self.manifest.set_id,
        )

    def _keep(self, number: int, file: Location) -> _OpenShard:
        """Map a shard and keep the map."""
        try:
            content = self._map(number, file)
        except FormatError as error:
            if self._stream is not None and isinstance(error.__cause__, FileNotFoundError):
                return self._complete(number)  # another process has just replaced or evicted it
            raise
        raw = content.records.view(np.uint8).reshape(-1).data
        if len(self._open) >= _MOST_OPEN:
            self._open.popitem(last=False)  # the oldest
        is_partial = self._stream is not None and self._stream.is_partial(file)
        self._open[number] = _OpenShard(content, raw, is_partial)
        return self._open[number]

    def _stream_records(self, stream: ShardStream, rows: np.ndarray, samples: np.ndarray) -> bool:
        """Bring the records of a batch here, all at the same time.

        Returns:
            Whether there is nothing left to bring, for any batch.
        """
        places = [self._locate(row) for row in rows.tolist()]
        numbers = {number for number, _ in places}
        for number, file in self._find(sorted(numbers - self._open.keys())).items():
            self._keep(number, file)
        for number in numbers & self._open.keys():
            if self._open[number].is_partial and (whole := stream.whole(number)) is not None:
                self._keep(number, whole)
        wanted = []
        for (number, position), row, sample in zip(places, rows.tolist(), samples, strict=True):
            shard, index = self._shard(number), position * self._samples + int(sample)
            if shard.is_partial:
                record = shard.raw[index * self._size : (index + 1) * self._size]
                if not is_whole(record, self.keys.encoded(row), self._checksum):
                    wanted.append((number, index))
        stream.fill(wanted)
        is_all = len(self._open) == len(self.manifest.shards)
        return is_all and not any(shard.is_partial for shard in self._open.values())

    def _complete(self, number: int) -> _OpenShard:
        """Open a remote shard that is whole."""
        assert self._stream is not None
        try:
            return self._keep(number, self._stream.fetch(number))
        except OSError as error:
            raise unreadable(self.location, error) from error

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k != "keys"}
        return {**state, "_open": OrderedDict(), "_is_here": False}

    def __repr__(self) -> str:
        m = self.manifest
        return (
            f"ShardSet({str(self.location)!r}: {len(self)} images x {m.samples} reinforcements, "
            f"top-{m.topk} of {m.num_classes} classes, {m.layout.itemsize} bytes each)"
        )
