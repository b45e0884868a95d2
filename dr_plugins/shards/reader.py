"""Reading a shard set: a lazy, picklable collection of reinforcements addressed by image key."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dr_plugins.errors import FormatError
from dr_plugins.records import is_whole, set_checksum
from dr_plugins.shards import cache
from dr_plugins.shards.address import Place, located
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.manifest import Manifest
from dr_plugins.shards.mapped import mapped_shards
from dr_plugins.shards.shard import Shard
from dr_plugins.shards.watch import Watch
from dr_plugins.utils.html import html_table

_SHOWN = 5  # class names


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
        self.location = located(directory).absolute()
        self.manifest = Manifest.load(self.location)
        self._samples, self._size = self.manifest.samples, self.manifest.layout.itemsize
        self._dtype = self.manifest.layout.dtype
        self._checksum = set_checksum(self.manifest.set_id)
        self._shards = mapped_shards(self.location, self.manifest)
        self._watch = Watch(self.location, self.manifest)

    @property
    def directory(self) -> Path:
        """The shard set's directory."""
        return Path(str(self.location))

    @cached_property
    def keys(self) -> KeyIndex:
        """The image keys, in row order."""
        path, sha256 = self.location / self.manifest.index.file, self.manifest.index.sha256
        try:
            keys = KeyIndex.load(path, sha256)
        except FormatError:
            if not cache.discard_damaged(sha256):
                raise
            keys = KeyIndex.load(path, sha256)
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
        pairs = list(zip(rows.tolist(), samples.tolist(), strict=True))
        if not self._shards.is_here:
            self._bring(pairs)
        records = [self._record(row, sample) for row, sample in pairs]
        return np.frombuffer(b"".join(records), self._dtype)

    def check_in_place(self, rows: np.ndarray | None = None) -> None:
        """Check that the set was not replaced since it was opened.

        Args:
            rows: int64 ``[B]``, images whose shards are also checked for their length.

        Raises:
            FormatError: It was, or it was deleted, or a shard was shortened.
        """
        self._watch.check()
        if rows is not None:
            numbers = np.searchsorted(self._shards.starts, rows, side="right") - 1
            self._shards.check_sizes(set(numbers.tolist()))

    def image(self, row: int) -> ImageInfo:
        """Return what the set stores about one image.

        Raises:
            IndexError: The row is out of range.
            FormatError: The image's shard is missing or damaged.
        """
        number, position = self._locate(row)
        shard = self._shards.get(number).content
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
        return self._shards.whole(number).records

    def shard(self, number: int) -> Shard:
        """Map shard `number` anew, unchecked, for reading it once.

        Raises:
            FormatError: It is missing or damaged.
        """
        return self._shards.map(number)

    def rows(self, number: int) -> range:
        """Return the image rows of shard `number`."""
        return range(*self._shards.starts[number : number + 2])

    def close_shards(self) -> None:
        """Close the memory maps of all shards; they are opened again on demand."""
        self._shards.close()

    def close(self) -> None:
        """Close all memory maps; the set stays usable and opens them again on demand."""
        self.close_shards()
        self.__dict__.pop("keys", None)

    def _record(self, row: int, sample: int, is_repaired: bool = False) -> memoryview:
        """The bytes of one record, checked. This is the hot path, hence plain Python."""
        number, position = self._locate(row)
        if not 0 <= sample < self._samples:
            raise IndexError(f"reinforcement {sample} of {self._samples} per image")
        offset = (position * self._samples + sample) * self._size
        shard = self._shards.open.get(number) or self._shards.get(number)
        record = shard.raw[offset : offset + self._size]
        if not is_whole(record, self.keys.encoded(row), self._checksum):
            if not is_repaired and self._shards.repair(number):
                return self._record(row, sample, is_repaired=True)
            raise FormatError(
                f"{self.location / self.manifest.shards[number].file}: a record of image "
                f"{self.keys[row]!r} is damaged, or belongs to another image or shard set. If the "
                f"set was replaced while in use, start again; otherwise copy the shard and the "
                f"index again. `dr-plugins verify` lists every damaged file."
            )
        return record

    def _bring(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Bring the records of a batch here from a server."""
        wanted = []
        for row, sample in pairs:
            number, position = self._locate(row)
            wanted.append((number, position * self._samples + sample))

        def is_here(record: memoryview, index: int) -> bool:
            return is_whole(record, self.keys.encoded(pairs[index][0]), self._checksum)

        self._shards.bring(wanted, is_here)

    def _locate(self, row: int) -> tuple[int, int]:
        """The number of a row's shard, and the row's position in it."""
        starts = self._shards.starts
        if not 0 <= row < starts[-1]:
            raise IndexError(f"row {row} of a set of {len(self)} images")
        number = bisect.bisect_right(starts, row) - 1
        return number, row - starts[number]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "keys"}

    def __repr__(self) -> str:
        m = self.manifest
        return (
            f"ShardSet({str(self.location)!r}: {len(self)} images x {m.samples} reinforcements, "
            f"top-{m.topk} of {m.num_classes} classes, {m.layout.itemsize} bytes each)"
        )

    def _repr_html_(self) -> str:
        """A table of facts, for notebooks."""
        m = self.manifest
        names = m.settings["class_names"] or ()
        few = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        rows = {
            "images": f"{len(self):,} x {m.samples:,} reinforcements",
            "classes": f"the top {m.topk} of {m.num_classes:,}" + (f": {few}" if names else ""),
            "policy": ", ".join(name for name in m.settings["policy"] if name != "backend"),
            "teachers": ", ".join(m.settings.get("teachers") or ["not named"]),
            "temperature": f"{m.temperature:g}",
            "record": f"{m.layout.itemsize} bytes",
            "set id": m.set_id,
        }
        return html_table(str(self.location), rows.items())
