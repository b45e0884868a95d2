"""What worker processes do: decode members into the staging files, and finish shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dr_plugins.errors import ReinforcementError
from dr_plugins.images.decoding import strict_decoding
from dr_plugins.mldr.decode import NO_PARTNER, Decoder, check_fit
from dr_plugins.mldr.errors import AlignmentError
from dr_plugins.mldr.inspection import named
from dr_plugins.mldr.members import load_member
from dr_plugins.mldr.staging import SIZES_NAME, Staging
from dr_plugins.records import set_checksum
from dr_plugins.shards.container import map_tensors
from dr_plugins.shards.manifest import FileEntry
from dr_plugins.shards.reader import map_shard
from dr_plugins.shards.shard import FINGERPRINT_BYTES, Shard, shard_name
from dr_plugins.utils.files import regular_only

__all__ = ["Measured", "Task", "Vote", "Worker", "mean_answer"]


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
        data: The member's content.
    """

    part: int
    name: str
    number: int
    shard: int
    position: int
    key: bytes
    label: int
    data: bytes


class Vote(NamedTuple):
    """The teacher's mean answer to an image.

    Attributes:
        part: Number of the set.
        shard: Number of the image's shard.
        label: The image's class, -1 if unknown.
        answer: The class that the teacher takes it for.
    """

    part: int
    shard: int
    label: int
    answer: int


class Measured(NamedTuple):
    """Sizes of consecutive images.

    Attributes:
        first: Number of the first image.
        sizes: int32 ``[n, 2]``: height, width.
        unreadable: What is wrong with those that cannot be read.
    """

    first: int
    sizes: np.ndarray
    unreadable: list[str]


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

    def measure(self, first: int, files: Sequence[str]) -> Measured:
        """Read the sizes of images from their headers."""
        sizes, unreadable = np.zeros((len(files), 2), np.int32), []
        for position, file in enumerate(files):
            try:
                with (
                    open(file, "rb", opener=regular_only) as opened,
                    strict_decoding,
                    Image.open(opened) as image,
                ):
                    sizes[position] = image.height, image.width
            except Exception as error:  # on damaged headers, Pillow raises errors of many types
                unreadable.append(f"{file}: {error}")
        return Measured(first, sizes, unreadable)

    @cached_property
    def sizes(self) -> np.ndarray:
        """int32 ``[images, 2]`` by image number, zero where unknown; written before `store`."""
        return map_tensors(self.staging.directory / SIZES_NAME)[0]["sizes"]

    def store(self, tasks: Sequence[Task]) -> list[Vote]:
        """Decode members and write their records to the staging files.

        Raises:
            ArchiveError: A member is unsafe or malformed.
            AlignmentError: A crop does not fit its image.
            OutputError: A file cannot be written.
        """
        return [self._store(task) for task in tasks]

    def _store(self, task: Task) -> Vote:
        decoder = self.decoders[task.part]
        try:
            records = decoder.decode(load_member(task.data), task.number)
            self._check_fit(task, records)
        except ReinforcementError as error:
            raise named(error, self.archives[task.part], task.name) from error
        if self.rows is not None:
            mixed = records["partner"] != NO_PARTNER
            records["partner"][mixed] = self.rows[records["partner"][mixed]]
        decoder.layout.seal(records, task.key, set_checksum(self.set_id))
        first = self.parts[task.part].start
        height, width = self.sizes[task.number].tolist()
        self.staging.store(task.shard, task.position, first, records, (height, width))
        return Vote(task.part, task.shard, task.label, mean_answer(records))

    def _check_fit(self, task: Task, records: np.ndarray) -> None:
        policy, what = self.decoders[task.part].policy, "image"
        try:
            check_fit(policy, records, np.tile(self.sizes[task.number], (len(records), 1)))
            mixed = records[policy.is_mixed(records)]
            if len(mixed):
                what = "the partners of image"
                check_fit(policy, mixed, self.sizes[mixed["partner"]], "partner_")
        except AlignmentError as error:
            raise AlignmentError(
                f"these are not reinforcements of {what} {task.key.decode()!r}: {error}. The "
                f"images are in another order than the archive's (torchvision's, sorted by name), "
                f"or they are not the originals."
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
        self.staging.drop(shard)
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
            Vote(
                part,
                shard,
                int(labels[position]),
                mean_answer(records[position, self.parts[part]]),
            )
            for position, part in np.argwhere(done).tolist()
        ]


def mean_answer(records: np.ndarray) -> int:
    """Return the class that is most probable on average over an image's reinforcements."""
    total = np.bincount(records["ids"].ravel(), records["probs"].ravel().astype(np.float64))
    return int(total.argmax())
