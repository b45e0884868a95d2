"""One shard: the reinforcements of consecutive images, with each image's label and size."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from dr_plugins.records import RecordLayout, set_checksum
from dr_plugins.shards.address import Place, located
from dr_plugins.shards.container import write_tensors
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.manifest import FileEntry

FINGERPRINT_BYTES = 8


_Rows = TypeVar("_Rows", int, np.ndarray)


def fingerprinted_sample(row: _Rows, samples: int) -> _Rows:
    """Return which reinforcement of a row's image is fingerprinted when a set is generated."""
    return row % samples


@dataclass
class Shard:
    """The content of one shard: consecutive rows of the key index.

    Attributes:
        first_row: Row of the first image.
        records: Array of the layout's dtype, shape ``[images, S]``.
        labels: int32 ``[images]``; the dataset's class of each image, -1 if unknown.
        sizes: int32 ``[images, 2]``; (height, width) in pixels, 0 if unknown.
        fingerprints: uint8 ``[images, 8]``; digest of one augmented view of each image; all zero if
            none was stored.
        fingerprinted: int32 ``[images]``, the sample of each of these views; None if it is
            ``row % S``.
    """

    first_row: int
    records: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray
    fingerprints: np.ndarray
    fingerprinted: np.ndarray | None = None

    @classmethod
    def empty(cls, first_row: int, images: int, samples: int, layout: RecordLayout) -> Shard:
        """Return a shard of zeros, with unknown labels, to fill in."""
        return cls(
            first_row,
            np.zeros((images, samples), layout.dtype),
            np.full(images, -1, np.int32),
            np.zeros((images, 2), np.int32),
            np.zeros((images, FINGERPRINT_BYTES), np.uint8),
        )

    def write(self, path: Place, layout: RecordLayout, keys: KeyIndex, set_id: str) -> FileEntry:
        """Seal every record for its set and image, and write the shard, atomically.

        Args:
            path: The shard's file.
            layout: Byte layout of `records`.
            keys: The set's key index.
            set_id: `Manifest.set_id` of the set.

        Raises:
            OutputError: The file cannot be written.
        """
        start = set_checksum(set_id)
        for position, records in enumerate(self.records):
            layout.seal(records, keys.encoded(self.first_row + position), start)
        return self.save(path, layout, set_id)

    def save(self, path: Place, layout: RecordLayout, set_id: str) -> FileEntry:
        """Write the shard, whose records are sealed already, atomically; see `write`."""
        tensors = {
            "labels": self.labels,
            "sizes": self.sizes,
            "fingerprints": self.fingerprints,
        }
        if self.fingerprinted is not None:
            tensors["fingerprinted"] = self.fingerprinted
        records = self.records.view(np.uint8).reshape(*self.records.shape, layout.itemsize)
        tensors["records"] = records  # last, where a reader of byte ranges expects them
        file = located(path)
        digest = write_tensors(file, tensors, self.origin(set_id))
        return FileEntry(file.name, digest, len(self.records))

    def fingerprinted_sample_of(self, position: int) -> int:
        """Return the sample of one image's fingerprint."""
        if self.fingerprinted is not None:
            return int(self.fingerprinted[position])
        return fingerprinted_sample(self.first_row + position, self.records.shape[1])

    def fingerprinted_samples(self) -> np.ndarray:
        """Return the sample of each image's fingerprint, int32 ``[images]``."""
        if self.fingerprinted is not None:
            return self.fingerprinted
        images, samples = self.records.shape
        rows = np.arange(self.first_row, self.first_row + images)
        return fingerprinted_sample(rows, samples).astype(np.int32)

    def origin(self, set_id: str) -> dict[str, str]:
        """Return the file's metadata: its set and place, and a checksum of the image data."""
        crc = 0
        facts = [self.labels, self.sizes, self.fingerprints]
        if self.fingerprinted is not None:
            facts.append(self.fingerprinted)
        for array in facts:
            crc = zlib.crc32(np.ascontiguousarray(array).data.cast("B") if array.size else b"", crc)
        return {
            "format": "dr-plugins",
            "set": set_id,
            "first_row": str(self.first_row),
            "facts_crc32": f"{crc:08x}",
        }


def shard_name(number: int) -> str:
    """Return the file name of shard `number`, counted from 0."""
    return f"shard-{number:05d}.safetensors"
