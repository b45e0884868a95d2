"""Making shards in one process: views from workers, answers of the teacher, records.

Worker processes decode the images and draw the parameters. They or the teacher's device make the
views. Answers are copied and stored while the teacher works on the next batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from dr_plugins.generation.background import Background
from dr_plugins.generation.planning import GenerationPlan
from dr_plugins.generation.predictor import Prediction, Predictor
from dr_plugins.generation.resuming import check_answers, check_views
from dr_plugins.generation.shard_builder import ShardBuilder
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.generation.view_maker import ViewMaker
from dr_plugins.generation.views import FailedBatch, ViewBatch, ViewBatches
from dr_plugins.shards.output import OutputDirectory
from dr_plugins.shards.shard import Shard
from dr_plugins.utils.workers import (
    alive,
    check_room,
    leave_sigterm_to_parent,
    noticing_dead_workers,
)

# Answers in flight: enough to keep the teacher busy, few enough to bound memory.
_UNFINISHED = {"cuda": 2}


class ShardMaker:
    """Makes shards of a planned set in one process, with one teacher.

    Args:
        plan: What the set is.
        output: Where the shards go.
        teacher: Answers the views; on `device`.
        device: Where the teacher runs.
        workers: As for `reinforce`.
        views_on: As for `reinforce`.

    Attributes:
        current: Number of the shard that is being made; None before the first.
    """

    def __init__(
        self,
        plan: GenerationPlan,
        output: OutputDirectory,
        teacher: Ensemble,
        device: torch.device,
        *,
        workers: int = 0,
        views_on: str | None = None,
    ) -> None:
        self.current: int | None = None
        self._plan, self._output, self._device, self._workers = plan, output, device, workers
        settings = plan.settings
        whole = views_on == "workers" if views_on else device.type != "cuda"
        self._batches = ViewBatches(
            plan.source,
            plan.keys,
            plan.views,
            settings.policy,
            plan.layout,
            settings.seed,
            whole,
        )
        self._feed = ViewMaker(settings.policy, plan.layout, device)
        self._ask = Predictor(
            teacher, plan.num_classes, plan.topk, settings.batch_size, settings.answer
        )

    def make_shards(
        self,
        numbers: Iterable[int],
        advance: Callable[[int], object],
        *,
        store: Callable[[int, Shard], None] | None = None,
        check: Callable[[ViewBatch], None] = lambda _: None,
    ) -> None:
        """Make and store shards.

        Args:
            numbers: Of the shards, in any order. The next one is taken when its first batch is
                needed, so it may depend on what other processes do meanwhile.
            advance: Called with the number of images that were completed since the last call.
            store: Stores a shard; None means `OutputDirectory.add`.
            check: Called before each batch; may raise.

        Raises:
            ReinforcementError: See `reinforce`.
        """
        plan, device = self._plan, self._device
        numbers = iter(numbers)
        first = next(numbers, None)
        if first is None:  # no workers for nothing
            return
        self.current = first
        views = plan.views
        check_room(self._workers, views.shards * views.batches(0), self._batches.batch_bytes)
        indices = (
            (shard, batch)
            for shard in itertools.chain([first], numbers)
            for batch in range(views.batches(shard))
        )
        loader = view_loader(self._batches, indices, self._workers, device)
        builder = ShardBuilder(
            store or self._output.add, views, plan.layout, plan.keys, plan.num_classes
        )

        def keep(answer: Prediction) -> None:
            advance(builder.add(answer))

        # On CUDA, making views, asking and storing overlap.
        with noticing_dead_workers(), Background(_UNFINISHED.get(device.type, 0)) as background:
            for batch in self._noted(loader):
                check(batch)
                background.call(keep, self._ask(batch, self._feed(batch)))

    def compare_shards(self, numbers: Sequence[int]) -> None:
        """Make the first batch of finished shards again and compare it with what is stored.

        Raises:
            ReinforcementError: See `check_views` and `check_answers`.
        """
        plan, output = self._plan, self._output
        for batch in self._noted(self._batches[number, 0] for number in numbers):
            shard = output.stored(batch.shard, *plan.views.place(batch.shard))
            views = self._feed(batch).take()
            check_views(batch, shard, plan.layout, plan.keys, views)
            precision = plan.identity["precision"]
            check_answers(batch, shard, self._ask, views, precision, output.directory)

    def _noted(self, loader: Iterable[ViewBatch | FailedBatch]) -> Iterator[ViewBatch]:
        for batch in alive(loader):
            self.current = batch.shard
            if isinstance(batch, FailedBatch):
                raise batch.error
            yield batch


def view_loader(
    batches: ViewBatches, indices: Iterable[Any], workers: int, device: torch.device
) -> DataLoader[Any]:
    """Return the loader of the batches of some indices, (shard, number)."""
    pinned = device.type == "cuda"
    return DataLoader(
        batches,
        sampler=indices,
        batch_size=None,
        num_workers=workers,
        pin_memory=pinned,
        worker_init_fn=leave_sigterm_to_parent,
    )
