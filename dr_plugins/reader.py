"""Reading a shard set: a lazy, picklable collection of reinforcements addressed by image key."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dr_plugins.container import map_tensors
from dr_plugins.errors import FormatError
from dr_plugins.key_index import KeyIndex
from dr_plugins.manifest import Manifest
from dr_plugins.policy import Policy
from dr_plugins.records import RecordLayout
from dr_plugins.shard import FINGERPRINT_BYTES, Shard

__all__ = ["ImageFacts", "ShardSet", "map_shard"]


class ImageFacts(NamedTuple):
    """What a shard set knows of one image besides its reinforcements.

    Attributes:
        label: The dataset's class when the set was made, -1 where unknown.
        size: (height, width) in pixels, (0, 0) where unknown.
        fingerprint: 8-byte digest of the augmented view of sample ``row % S``; None where unknown.
    """

    label: int
    size: tuple[int, int]
    fingerprint: bytes | None


def map_shard(
    path: Path, *, layout: RecordLayout, shape: tuple[int, int], first_row: int, set_id: str
) -> Shard:
    """Map one shard file and make sure that it is the expected one.

    Args:
        path: The shard's file.
        layout: Byte layout of its records.
        shape: (images, S).
        first_row: Row of its first image.
        set_id: `Manifest.set_id` of the set that it should belong to.

    Returns:
        A shard of read-only arrays over the mapped file.

    Raises:
        FormatError: The file is missing, truncated, damaged, or belongs elsewhere.
    """
    tensors, metadata = map_tensors(path)
    images, samples = shape
    expected = {
        "labels": (np.int32, (images,)),
        "sizes": (np.int32, (images, 2)),
        "fingerprints": (np.uint8, (images, FINGERPRINT_BYTES)),
        "records": (np.uint8, (images, samples, layout.itemsize)),
    }
    found: dict[str, Any] = {name: (t.dtype, t.shape) for name, t in tensors.items()}
    if found != expected:
        raise FormatError(f"{path} holds {found}, expected {expected}. Copy it again.")
    origin = {"format": "dr-plugins", "set": set_id, "first_row": str(first_row)}
    if metadata != origin:
        raise FormatError(
            f"{path} belongs to another shard set or another place in it: it says {metadata}, "
            f"expected {origin}. Copy the whole directory again."
        )
    records = tensors.pop("records").view(layout.dtype)[..., 0]
    return Shard(first_row, records, **tensors)


class ShardSet:
    """Reinforcements on disk, read by memory map.

    Nothing but the manifest is opened until it is needed; each worker process opens its own maps.
    Records come back as numpy structured arrays whose fields are listed in ``manifest.layout``.
    Every record is checked against its checksum and its image's key when it is read.

    Args:
        directory: The shard set.

    Raises:
        FormatError: The manifest is missing or damaged.
        VersionError: The set was written by a newer format version.

    Example:
        >>> shards = ShardSet("imagenet-plus")                              # doctest: +SKIP
        >>> record = shards["n01440764/n01440764_10026.JPEG", 17]           # doctest: +SKIP
        >>> record["ids"], record["probs"]                                  # doctest: +SKIP
    """

    def __init__(self, directory: str | PathLike[str]) -> None:
        self.directory = Path(directory)
        self.manifest = Manifest.load(self.directory)
        self._starts = np.cumsum([0, *(entry.images for entry in self.manifest.shards)])
        self._open: dict[int, Shard] = {}

    @cached_property
    def keys(self) -> KeyIndex:
        """The image keys, in row order."""
        path = self.directory / self.manifest.index.file
        keys = KeyIndex.load(path)
        if len(keys) != len(self):
            raise FormatError(f"{path} holds {len(keys)} images, the manifest says {len(self)}")
        return keys

    @cached_property
    def policy(self) -> Policy:
        """The augmentation policy that the records' parameters belong to."""
        policy = Policy.from_config(self.manifest.settings["policy"])
        stored = self.manifest.layout.fields[: len(policy.fields)]
        if tuple(policy.fields) != stored:
            raise FormatError(
                f"{self.directory}: the policy stores {[f.name for f in policy.fields]}, the "
                f"records hold {[f.name for f in stored]}. Copy the manifest again."
            )
        return policy

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
            FormatError: The record, or its shard, is missing or damaged.
        """
        image, sample = item
        row = self.keys.row(image) if isinstance(image, str) else int(image)
        return self.read(np.array([row]), np.array([sample]))[0]

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
            Structured array ``[B]`` (a copy of B records).

        Raises:
            IndexError: A row or sample is out of range.
            FormatError: A record fails its checksum, or a shard is missing or damaged.
        """
        self._check_range(rows, samples)
        out = np.empty(len(rows), self.manifest.layout.dtype)
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        positions = (rows - self._starts[numbers]).tolist()
        for i, (number, position, sample) in enumerate(
            zip(numbers.tolist(), positions, samples.tolist(), strict=True)
        ):
            out[i] = self._shard(number).records[position, sample]
        self._check_whole(out, rows)
        return out

    def image(self, row: int) -> ImageFacts:
        """Return what the set knows of one image.

        Raises:
            IndexError: The row is out of range.
            FormatError: The image's shard is missing or damaged.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a set of {len(self)} images")
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        shard, position = self._shard(number), row - int(self._starts[number])
        height, width = shard.sizes[position].tolist()
        fingerprint = shard.fingerprints[position]
        return ImageFacts(
            int(shard.labels[position]),
            (height, width),
            fingerprint.tobytes() if fingerprint.any() else None,
        )

    def records(self, number: int) -> np.ndarray:
        """Return all records of shard `number` as a mapped array ``[images, S]``, unchecked."""
        return self._shard(number).records

    def rows(self, number: int) -> range:
        """Return the image rows of shard `number`."""
        return range(int(self._starts[number]), int(self._starts[number + 1]))

    def close(self) -> None:
        """Drop every memory map; the set stays usable and opens them again on demand."""
        self._open.clear()
        self.__dict__.pop("keys", None)

    def _shard(self, number: int) -> Shard:
        shard = self._open.get(number)
        if shard is None:
            shard = self._open[number] = self._map(number)
        return shard

    def _map(self, number: int) -> Shard:
        entry = self.manifest.shards[number]
        return map_shard(
            self.directory / entry.file,
            layout=self.manifest.layout,
            shape=(entry.images, self.manifest.samples),
            first_row=int(self._starts[number]),
            set_id=self.manifest.set_id,
        )

    def _check_range(self, rows: np.ndarray, samples: np.ndarray) -> None:
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a set of {len(self)} images")
        if len(samples) and (samples.min() < 0 or samples.max() >= self.manifest.samples):
            raise IndexError(
                f"samples {samples.min()} to {samples.max()} of {self.manifest.samples} per image"
            )

    def _check_whole(self, records: np.ndarray, rows: np.ndarray) -> None:
        damaged = self.manifest.layout.damaged(
            records, [self.keys.encoded(r) for r in rows.tolist()]
        )
        if damaged is not None:
            row = int(rows[damaged])
            number = int(np.searchsorted(self._starts, row, side="right")) - 1
            raise FormatError(
                f"{self.directory / self.manifest.shards[number].file}: the record of image "
                f"{self.keys[row]!r} is damaged, or belongs to another image. Copy the shard and "
                f"the index again; `dr-plugins verify` lists every damaged file."
            )

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k != "keys"}
        return {**state, "_open": {}}

    def __repr__(self) -> str:
        m = self.manifest
        return (
            f"ShardSet({str(self.directory)!r}: {len(self)} images x {m.samples} reinforcements, "
            f"top-{m.topk} of {m.num_classes} classes, {m.layout.itemsize} bytes each)"
        )
