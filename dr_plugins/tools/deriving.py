"""Making shard sets from other sets: reads images in order, writes shards, keeps finished ones."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dr_plugins.errors import (
    DatasetMismatchError,
    FormatError,
    ImageChangedError,
    SettingsMismatchError,
)
from dr_plugins.records import RecordLayout, set_checksum
from dr_plugins.shards.claims import locked
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.manifest import Manifest
from dr_plugins.shards.output import OutputDirectory, finished_set
from dr_plugins.shards.reader import ShardSet
from dr_plugins.shards.shard import Shard

# Sets that do not fit each other never will; what a damaged file stopped can be completed later.
_FINAL = (DatasetMismatchError, ImageChangedError, SettingsMismatchError)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DerivedSet:
    """A set that is to be made from other sets.

    Attributes:
        settings: See `Manifest`.
        layout: Byte layout of a record.
        keys: The images, in row order.
        versions: Libraries that generated the reinforcements.
        shard_images: Images per shard.
    """

    settings: dict[str, Any]
    layout: RecordLayout
    keys: KeyIndex
    versions: dict[str, str]
    shard_images: int

    def rows(self) -> list[range]:
        """Return the rows of each shard."""
        total, step = len(self.keys), self.shard_images
        return [range(first, min(first + step, total)) for first in range(0, total, step)]


def shard_size(manifest: Manifest) -> int:
    """Return the images per shard of a set."""
    stated = manifest.settings.get("shard_images")
    return stated or max((entry.images for entry in manifest.shards), default=1)


def write_set(
    out: str | os.PathLike[str],
    derived: DerivedSet,
    make: Callable[[range], Shard],
    *,
    progress: bool,
) -> Manifest:
    """Write a set shard by shard, or what an interrupted run left to do.

    Args:
        out: Directory of the set.
        derived: The set.
        make: Returns the shard of some rows; its records need no checksums.
        progress: Show a progress bar.

    Raises:
        SettingsMismatchError: `out` holds another set.
        LockedError: Another process writes to `out`.
        OutputError: A file cannot be written; finished shards are kept.
        ReinforcementError: What `make` raises. If it says that the set cannot be made from these
            sets, nothing is left in `out`.
    """
    if complete := finished_set(out, derived.settings, derived.versions):
        _logger.info("%s is already complete", out)
        return complete
    samples = int(derived.settings["samples"])
    with leaving_no_directory(out), locked(out):
        output = OutputDirectory(
            out, derived.settings, derived.layout, derived.keys, derived.versions
        )
        with tqdm(total=len(derived.keys), unit=" images", disable=not progress) as bar:
            for number, rows in enumerate(derived.rows()):
                if not output.keep(number, (len(rows), samples), rows.start):
                    try:
                        shard = make(rows)
                    except _FINAL:
                        output.abandon()
                        raise
                    output.add(number, shard)
                bar.update(len(rows))
        return output.finish()


@contextlib.contextmanager
def leaving_no_directory(path: str | os.PathLike[str]) -> Iterator[None]:
    """Delete a directory, and those above it, if it is new and sets turn out not to fit."""
    directory = Path(os.path.abspath(path))
    new = [one for one in (directory, *directory.parents) if not os.path.exists(one)]
    try:
        yield
    except _FINAL:
        for one in new:
            with contextlib.suppress(OSError):  # something else is in it
                one.rmdir()
        raise


class ImageReader:
    """Reads all that a set stores about some images, and checks it.

    Args:
        shards: The set.
    """

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards
        self._ends = np.cumsum([entry.images for entry in shards.manifest.shards])
        self._checksum = set_checksum(shards.manifest.set_id)

    def read(self, rows: np.ndarray, samples: int) -> Shard:
        """Return the images of some rows as a new shard.

        Args:
            rows: int64 ``[n]``, ascending.
            samples: How many reinforcements of each image to read, the first ones.

        Raises:
            FormatError: A shard is missing, or a record is damaged.
        """
        images = Shard.empty(0, len(rows), samples, self._shards.manifest.layout)
        images.fingerprinted = np.zeros(len(rows), np.int32)
        numbers = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(numbers).tolist():
            here = np.flatnonzero(numbers == number)
            shard = self._shards.shard(number)
            positions = rows[here] - shard.first_row
            images.records[here] = shard.records[positions, :samples]
            images.labels[here] = shard.labels[positions]
            images.sizes[here] = shard.sizes[positions]
            images.fingerprints[here] = shard.fingerprints[positions]
            images.fingerprinted[here] = shard.fingerprinted_samples()[positions]
            self._check(number, rows[here], images.records[here])
        return images

    def _check(self, number: int, rows: np.ndarray, records: np.ndarray) -> None:
        layout = self._shards.manifest.layout
        for row, of_image in zip(rows.tolist(), records, strict=True):
            key = self._shards.keys.encoded(row)
            if layout.damaged(of_image, [key] * len(of_image), self._checksum) is not None:
                file = self._shards.location / self._shards.manifest.shards[number].file
                raise FormatError(
                    f"{file}: a record of image {self._shards.keys[row]!r} is damaged, or belongs "
                    f"to another image or shard set. Copy the shard again."
                )


def keep_fingerprints(shard: Shard, fingerprints: np.ndarray, samples: np.ndarray) -> None:
    """Store fingerprints in a shard, except those of samples that it does not have.

    Args:
        shard: The shard.
        fingerprints: uint8 ``[images, 8]``.
        samples: int ``[images]``, the sample of each fingerprint in this shard; -1 if it has none.
    """
    kept = fingerprints.any(axis=1) & (samples >= 0) & (samples < shard.records.shape[1])
    shard.fingerprints[kept] = fingerprints[kept]
    usual = shard.fingerprinted_samples()
    if (kept & (samples != usual)).any():
        shard.fingerprinted = np.where(kept, samples, usual).astype(np.int32)
