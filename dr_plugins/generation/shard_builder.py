"""Filling shards with answers, in order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.generation.predictor import Prediction
from dr_plugins.generation.views import ImagePart, ViewPlan
from dr_plugins.records import RecordLayout
from dr_plugins.replay.replayer import fingerprint
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.shard import Shard


class ShardBuilder:
    """Puts answers into shards and writes each shard when it is complete.

    Args:
        store: Called with the number of each complete shard and the shard.
        plan: Division into shards and batches.
        layout: Byte layout of a record.
        keys: The images, in row order.
        num_classes: Number of the teacher's classes.
    """

    def __init__(
        self,
        store: Callable[[int, Shard], None],
        plan: ViewPlan,
        layout: RecordLayout,
        keys: KeyIndex,
        num_classes: int,
    ) -> None:
        self._store, self._plan, self.layout, self._keys = store, plan, layout, keys
        self._num_classes = num_classes
        self._shard: Shard | None = None

    def add(self, answer: Prediction) -> int:
        """Store an answer; answers must arrive in order.

        Returns:
            Number of images that it completes.

        Raises:
            TeacherError: The answer is not finite.
            DatasetMismatchError: A label is not one of the teacher's classes.
            OutputError: A shard cannot be written.
        """
        answer.wait()
        batch, plan = answer.batch, self._plan
        rows = plan.rows(batch.shard)
        if self._shard is None:
            self._shard = Shard.empty(rows.start, len(rows), plan.samples, self.layout)
        stop = batch.first + len(batch.records)
        self._shard.records.reshape(-1)[batch.first : stop] = self._filled(answer)
        self._note(self._shard, answer)
        if stop == len(rows) * plan.samples:
            self._store(batch.shard, self._shard)
            self._shard = None
        return stop // plan.samples - batch.first // plan.samples

    def _filled(self, answer: Prediction) -> np.ndarray:
        records = answer.batch.records.numpy().view(self.layout.dtype)[:, 0]
        for name, values in answer.answer.items():
            records[name] = values.numpy()
        return records

    def _note(self, shard: Shard, answer: Prediction) -> None:
        views = iter(answer.fingerprinted)
        for part in answer.batch.parts:
            self._check_label(part)
            position = part.row - shard.first_row
            shard.labels[position] = part.label
            shard.sizes[position] = part.size
            if part.fingerprinted is not None:
                digest = fingerprint(next(views))
                shard.fingerprints[position] = np.frombuffer(digest, np.uint8)

    def _check_label(self, part: ImagePart) -> None:
        if part.label >= self._num_classes:
            raise DatasetMismatchError(
                f"image {self._keys[part.row]!r} has label {part.label}, the teacher has "
                f"{self._num_classes} classes; use a teacher of the dataset's classes"
            )
