"""The methods: what a student sees in an epoch, and what it learns from.

Each yields, epoch by epoch, views ``[N, 3, H, W]`` of all images and their targets: labels
``[N]``, probabilities ``[N, C]``, or `SparseTargets`. `KDLoss` takes all three, so one training
loop serves all methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dr_plugins import Ensemble, ImageSource, ReinforcedDataset, SparseTargets
from examples.evidence.grid import Training
from examples.evidence.views import Stream

Epochs = Iterator[tuple[torch.Tensor, torch.Tensor | SparseTargets]]
_SMOOTHING = 0.1


@dataclass(frozen=True)
class Task:
    """What a method works with.

    Attributes:
        run: Its settings.
        source: The training images.
        teacher: Answers views.
        answers: The teacher's answers to all views of an epoch of the run's stream.
        shards: Path of the shard set; None for methods that need none.
    """

    run: Training
    source: ImageSource
    teacher: Ensemble
    answers: Callable[[int], torch.Tensor]
    shards: Any = None

    @property
    def stream(self) -> Stream:
        """The views of this run's seed."""
        return Stream(self.source, self.run.seed)


def plain(task: Task) -> Epochs:
    """Labels."""
    stream, labels = task.stream, task.stream.labels()
    for epoch in range(task.run.epochs):
        yield stream.views(epoch), labels


def smoothing(task: Task) -> Epochs:
    """Labels, of which 0.1 is spread over all classes."""
    smooth = F.one_hot(task.stream.labels(), 10) * (1 - _SMOOTHING) + _SMOOTHING / 10
    for epoch in range(task.run.epochs):
        yield task.stream.views(epoch), smooth


def stored(task: Task) -> Epochs:
    """One answer per image, to the image itself; the student sees free augmentations."""
    answers = task.teacher(task.stream.unaugmented())
    for epoch in range(task.run.epochs):
        yield task.stream.views(epoch), answers


def independent(task: Task) -> Epochs:
    """Online distillation; teacher and student see different crops of the image."""
    for epoch in range(task.run.epochs):
        yield task.stream.views(epoch), task.answers((epoch + 1) % task.run.epochs)


def online(task: Task) -> Epochs:
    """Online distillation; teacher and student see the same view, a new one in each epoch."""
    for epoch in range(task.run.epochs):
        yield task.stream.views(epoch), task.answers(epoch)


def reinforced(task: Task) -> Epochs:
    """Stored views with their stored answers."""
    run, rng, stream = task.run, np.random.default_rng(task.run.seed), task.stream
    dataset = ReinforcedDataset(
        task.source,
        task.shards,
        p=run.p,
        densify=run.densify,
        seed=run.seed,
        transform=lambda image: stream.augment(image, rng),
    )
    for epoch in range(run.epochs):
        dataset.set_epoch(epoch)
        yield dataset.collate(dataset.__getitems__(range(len(dataset))))


METHODS: dict[str, Callable[[Task], Epochs]] = {
    method.__name__: method
    for method in (plain, smoothing, stored, independent, online, reinforced)
}
