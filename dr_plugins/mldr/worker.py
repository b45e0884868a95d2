"""What worker processes do: decode members into the staging files, and finish shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dr_plugins.errors import ImageReadError, ReinforcementError
from dr_plugins.mldr.decode import NO_PARTNER, Decoder, check_fit
from dr_plugins.mldr.errors import AlignmentError
from dr_plugins.mldr.inspection import named
from dr_plugins.mldr.members import load_member
from dr_plugins.mldr.staging import Staging
from dr_plugins.shards.manifest import FileEntry
from dr_plugins.shards.reader import map_shard
from dr_plugins.shards.records import set_checksum
from dr_plugins.shards.shard import FINGERPRINT_BYTES, Shard, shard_name

__all__ = ["Task", "Vote", "Worker"]


class Task(NamedTuple):
    """One member to decode.

    Attributes:
        part: Number of its set.
        name: Its name in the archive.
        number: The image's number in the archive.
        shard: Number of the image's shard.
        position: Position of the image in it.
        key: UTF-8 key of the image.
        label: The dataset's class, -1 if unknown.
        file: Where the image is, None if it is not to be looked at.
        data: The member's content.
    """

    part: int
    name: str
    number: int
    shard: int
    position: int
    key: bytes
    label: int
    file: str | None
    data: bytes


class Vote(NamedTuple):
    """Whether the teacher's mean answer to an image is its label.

    Attributes:
        part: Number of the set.
        shard: Number of the image's shard.
        agrees: True or False, None if the label is unknown.
    """

    part: int
    shard: int
    agrees: bool | None


@dataclass(frozen=True)
class Worker:
    """Does the work of an import, in any process.

    Attributes:
        archives: Path of the archive of each set, for messages.
        decoders: One for each set.
        parts: The reinforcements that each set contributes.
        rows: int64 ``[images]``, row of each image by its number in the archive; None where the
            policy does not mix.
        staging: Where unfinished shards are.
        directory: Where finished shards appear.
        set_id: `Manifest.set_id`.
    """

    archives: Sequence[Path]
    decoders: Sequence[Decoder]
    parts: Sequence[slice]
    rows: np.ndarray | None
    staging: Staging
    directory: Path
    set_id: str

    def store(self, tasks: Sequence[Task]) -> list[Vote]:
        """Decode members and write their records to the staging files.

        Raises:
            ArchiveError: A member is unsafe or malformed.
            AlignmentError: A crop does not fit the image.
            ImageReadError: The image cannot be opened.
            OutputError: A file cannot be written.
        """
        return [self._store(task) for task in tasks]

    def _store(self, task: Task) -> Vote:
        decoder = self.decoders[task.part]
        try:
            records = decoder.decode(load_member(task.data), task.number)
            size = _image_size(task.file, task.key)
            if any(size):
                self._check_fit(task, records, size)
        except ReinforcementError as error:
            raise named(error, self.archives[task.part], task.name) from error
        if self.rows is not None:
            mixed = records["partner"] != NO_PARTNER
            records["partner"][mixed] = self.rows[records["partner"][mixed]]
        decoder.layout.seal(records, task.key, set_checksum(self.set_id))
        first = self.parts[task.part].start
        self.staging.store(task.shard, task.position, first, records, size)
        return Vote(task.part, task.shard, agreement(records, task.label))

    def _check_fit(self, task: Task, records: np.ndarray, size: tuple[int, int]) -> None:
        try:
            check_fit(self.decoders[task.part].policy, records, size)
        except AlignmentError as error:
            raise AlignmentError(
                f"these are not reinforcements of image {task.key.decode()!r}: {error}. The images "
                f"are in another order than the archive's (torchvision's, sorted by name), or they "
                f"are not the originals."
            ) from error

    def finish(self, shard: int, first_row: int, labels: np.ndarray) -> tuple[int, FileEntry]:
        """Turn a staging file into a shard; returns its number and its entry for the manifest.

        Raises:
            OutputError: It cannot be written.
        """
        sizes, records = self.staging.load(shard, len(labels))
        fingerprints = np.zeros((len(labels), FINGERPRINT_BYTES), np.uint8)
        finished = Shard(first_row, records, labels, sizes, fingerprints)
        layout = self.decoders[0].layout
        entry = finished.save(self.directory / shard_name(shard), layout, self.set_id)
        self.staging.path(shard).unlink(missing_ok=True)
        return shard, entry

    def resume(
        self, shard: int, keys: list[bytes], labels: np.ndarray
    ) -> tuple[int, np.ndarray, list[Vote]]:
        """Find out what an interrupted import left in a staging file.

        Returns:
            The shard, which parts of which of its images are complete (bool ``[images, parts]``),
            and their votes.
        """
        done = self.staging.done(shard, keys, list(self.parts), set_checksum(self.set_id))
        _, records = self.staging.load(shard, len(keys))
        return shard, done, self._votes(shard, records, labels, done)

    def review(self, shard: int, first_row: int, labels: np.ndarray) -> list[Vote]:
        """Return the votes on the images of a finished shard."""
        path, layout = self.directory / shard_name(shard), self.decoders[0].layout
        shape = (len(labels), self.staging.samples)
        finished = map_shard(
            path, layout=layout, shape=shape, first_row=first_row, set_id=self.set_id
        )
        done = np.ones((len(labels), len(self.parts)), bool)
        return self._votes(shard, finished.records, labels, done)

    def _votes(
        self, shard: int, records: np.ndarray, labels: np.ndarray, done: np.ndarray
    ) -> list[Vote]:
        return [
            Vote(part, shard, agreement(records[position, self.parts[part]], int(labels[position])))
            for position, part in np.argwhere(done).tolist()
        ]


def agreement(records: np.ndarray, label: int) -> bool | None:
    """Whether the most probable class, averaged over an image's reinforcements, is its label."""
    if label < 0:
        return None
    total = np.bincount(records["ids"].ravel(), records["probs"].ravel().astype(np.float64))
    return int(total.argmax()) == label


def _image_size(file: str | None, key: bytes) -> tuple[int, int]:
    """(height, width) from the image's header; (0, 0) if there is no file to look at."""
    if file is None:
        return 0, 0
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageReadError(f"cannot read image {key.decode()!r}: {error}") from error
