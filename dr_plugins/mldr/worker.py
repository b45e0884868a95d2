"""Work of an import's worker processes: decode members and finish shards."""

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
from dr_plugins.mldr.partial_shards import SIZES_NAME, PartialShards
from dr_plugins.mldr.serialization import load_member
from dr_plugins.records import set_checksum
from dr_plugins.shards.container import map_tensors
from dr_plugins.shards.manifest import FileEntry
from dr_plugins.shards.mapped import map_shard
from dr_plugins.shards.shard import FINGERPRINT_BYTES, Shard, shard_name
from dr_plugins.utils.files import regular_only


class Task(NamedTuple):
    """One member to decode.

    Attributes:
        set_number: Index of the set.
        name: Its name in the archive.
        number: The image's number in the archive.
        shard: Number of the image's shard.
        position: Position of the image in the shard.
        key: UTF-8 key of the image.
        label: The dataset's class, -1 if unknown.
        data: The member's content.
    """

    set_number: int
    name: str
    number: int
    shard: int
    position: int
    key: bytes
    label: int
    data: bytes


class Prediction(NamedTuple):
    """The teacher's mean prediction for an image.

    Attributes:
        set_number: Index of the set.
        shard: Number of the image's shard.
        label: The image's class, -1 if unknown.
        predicted: The most probable class.
    """

    set_number: int
    shard: int
    label: int
    predicted: int


class Measured(NamedTuple):
    """Sizes of consecutive images.

    Attributes:
        first: Number of the first image.
        sizes: int32 ``[n, 2]``: height, width.
        unreadable: One message for each unreadable image.
    """

    first: int
    sizes: np.ndarray
    unreadable: list[str]


@dataclass(frozen=True)
class Worker:
    """Executes the tasks of an import, in any process.

    Attributes:
        archives: Path of the archive of each set, for messages.
        decoders: One for each set.
        ranges: Sample numbers that each set contributes.
        rows: int64 ``[images]``, row of each image by its number in the archive; None if the
            policy does not mix.
        partial_shards: Records of unfinished shards.
        directory: Directory for finished shards.
        set_id: `Manifest.set_id`.
    """

    archives: Sequence[Path]
    decoders: Sequence[Decoder]
    ranges: Sequence[slice]
    rows: np.ndarray | None
    partial_shards: PartialShards
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
        """int32 ``[images, 2]`` by image number, zero if unknown; read from a file."""
        return map_tensors(self.partial_shards.directory / SIZES_NAME)[0]["sizes"]

    def store(self, tasks: Sequence[Task]) -> list[Prediction]:
        """Decode members and write their records to the partial shards.

        Raises:
            ArchiveError: A member is unsafe or malformed.
            AlignmentError: A crop does not fit its image.
            OutputError: A file cannot be written.
        """
        return [self._store(task) for task in tasks]

    def _store(self, task: Task) -> Prediction:
        decoder = self.decoders[task.set_number]
        try:
            records = decoder.decode(load_member(task.data), task.number)
            self._check_fit(task, records)
        except ReinforcementError as error:
            raise named(error, self.archives[task.set_number], task.name) from error
        if self.rows is not None:
            mixed = records["partner"] != NO_PARTNER
            records["partner"][mixed] = self.rows[records["partner"][mixed]]
        decoder.layout.seal(records, task.key, set_checksum(self.set_id))
        first = self.ranges[task.set_number].start
        height, width = self.sizes[task.number].tolist()
        self.partial_shards.store(task.shard, task.position, first, records, (height, width))
        return Prediction(task.set_number, task.shard, task.label, mean_prediction(records))

    def _check_fit(self, task: Task, records: np.ndarray) -> None:
        policy, what = self.decoders[task.set_number].policy, "image"
        try:
            check_fit(policy, records, np.tile(self.sizes[task.number], (len(records), 1)))
            mixed = records[policy.is_mixed(records)]
            if len(mixed):
                what = "the partners of image"
                check_fit(policy, mixed, self.sizes[mixed["partner"]], "partner_")
        except AlignmentError as error:
            raise AlignmentError(
                f"these are not reinforcements of {what} {task.key.decode()!r}: {error}. The "
                f"images are not in the archive's order (torchvision's, sorted by name), or they "
                f"are not the originals."
            ) from error

    def finish(self, shard: int, first_row: int, labels: np.ndarray) -> tuple[int, FileEntry]:
        """Turn a partial shard into a shard; return its number and its manifest entry.

        Raises:
            OutputError: It cannot be written.
        """
        sizes, records = self.partial_shards.load(shard, len(labels))
        fingerprints = np.zeros((len(labels), FINGERPRINT_BYTES), np.uint8)
        finished = Shard(first_row, records, labels, sizes, fingerprints)
        layout = self.decoders[0].layout
        entry = finished.save(self.directory / shard_name(shard), layout, self.set_id)
        self.partial_shards.delete(shard)
        return shard, entry

    def resume(
        self, shard: int, keys: list[bytes], labels: np.ndarray
    ) -> tuple[int, np.ndarray, list[Prediction]]:
        """Find out what an interrupted import left in a partial shard.

        Returns:
            The shard number, which ranges of its images are complete (bool ``[images, ranges]``),
            and their predictions.
        """
        done = self.partial_shards.done(shard, keys, list(self.ranges), set_checksum(self.set_id))
        _, records = self.partial_shards.load(shard, len(keys))
        return shard, done, self._predictions(shard, records, labels, done)

    def review(self, shard: int, first_row: int, labels: np.ndarray) -> list[Prediction]:
        """Return the predictions for the images of a finished shard."""
        path, layout = self.directory / shard_name(shard), self.decoders[0].layout
        shape = (len(labels), self.partial_shards.samples)
        finished = map_shard(
            path, layout=layout, shape=shape, first_row=first_row, set_id=self.set_id
        )
        done = np.ones((len(labels), len(self.ranges)), bool)
        return self._predictions(shard, finished.records, labels, done)

    def _predictions(
        self, shard: int, records: np.ndarray, labels: np.ndarray, done: np.ndarray
    ) -> list[Prediction]:
        return [
            Prediction(
                set_number,
                shard,
                int(labels[position]),
                mean_prediction(records[position, self.ranges[set_number]]),
            )
            for position, set_number in np.argwhere(done).tolist()
        ]


def mean_prediction(records: np.ndarray) -> int:
    """Return the class with the highest mean probability over an image's reinforcements."""
    total = np.bincount(records["ids"].ravel(), records["probs"].ravel().astype(np.float64))
    return int(total.argmax())
