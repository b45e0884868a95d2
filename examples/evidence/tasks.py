"""Gathering what a run needs: images, teacher, answers, shard set; made where they are missing."""

from __future__ import annotations

from pathlib import Path

from examples.evidence.grid import Training
from examples.evidence.methods import Task
from examples.evidence.teachers import make_shards, remembered, teacher_of
from examples.evidence.views import Stream, source_of


def prepare(run: Training, cache: Path) -> Task:
    """Return what a training works with.

    Args:
        run: Of the grid.
        cache: Folder of all that can be made again.
    """
    source = source_of(run.images, cache)
    teacher = teacher_of(run, source, cache)
    shards = make_shards(run, source, teacher, cache) if run.method == "reinforced" else None
    answers = remembered(run, Stream(source, run.seed), teacher, cache)
    return Task(run, source, teacher, answers, shards)
