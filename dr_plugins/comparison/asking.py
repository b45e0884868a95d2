"""The views that teachers are asked about: some images, augmented as generation would do it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch.utils.data import Subset

from dr_plugins.errors import DatasetMismatchError, TeacherError
from dr_plugins.generation.making import view_loader
from dr_plugins.generation.planning import GenerationPlan, GenerationSettings, plan_generation
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.generation.view_maker import ViewMaker
from dr_plugins.generation.views import FailedBatch, ViewBatch, ViewBatches
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import Policy
from dr_plugins.utils.workers import alive, check_room, noticing_dead_workers


def drawn(source: ImageSource, fraction: float, seed: int) -> ImageSource:
    """Return a random part of the images, at least one."""
    if not len(source):
        raise DatasetMismatchError("the dataset has no images to ask about")
    count = max(1, round(fraction * len(source)))
    chosen = np.sort(np.random.default_rng(seed).choice(len(source), count, replace=False)).tolist()
    return ImageSource(Subset(source.dataset, chosen), [source.keys[i] for i in chosen])


def plan_views(
    source: ImageSource,
    teachers: Mapping[str, Ensemble],
    policy: Policy,
    samples: int,
    seed: int,
    batch_size: int,
    device: torch.device,
) -> GenerationPlan:
    """Lay out views of all images, without mixing, whose batches hold all views of an image.

    Raises:
        TeacherError: The teachers have different classes.
        DatasetMismatchError: The images have other classes than the teachers.
    """
    settings = GenerationSettings(
        dataclasses.replace(policy, mixings=()),
        samples=samples,
        topk=1,
        seed=seed,
        batch_size=max(1, batch_size // samples) * samples,
    )
    size = policy.view_size
    blank = torch.zeros(1, 3, *size, dtype=torch.uint8, device=device)
    counts = {name: teacher(blank).shape[1] for name, teacher in teachers.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise TeacherError(
            f"the teachers have different numbers of classes ({listed}); compare teachers of the "
            f"same classes"
        )
    one = next(iter(teachers.values()))
    return plan_generation(source, one, settings, teacher_specs=(), device=device, left_out=())


def labelled_views(
    plan: GenerationPlan, device: torch.device, workers: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield uint8 views ``[B, 3, H, W]`` on the device, and their labels ``[B]``, -1 if unknown.

    Raises:
        DatasetMismatchError: A label is not one of the teachers' classes.
        ImageReadError: An image cannot be read.
        WorkerError: A worker died, or shared memory is too small for the workers' batches.
    """
    policy, views = plan.settings.policy, plan.views
    whole = device.type != "cuda"
    batches = ViewBatches(
        plan.source, plan.keys, views, policy, plan.layout, plan.settings.seed, whole
    )
    numbers = [
        (shard, batch) for shard in range(views.shards) for batch in range(views.batches(shard))
    ]
    check_room(workers, len(numbers), batches.batch_bytes)
    feed = ViewMaker(policy, plan.layout, device)
    with noticing_dead_workers():
        for batch in alive(view_loader(batches, numbers, workers, device)):
            if isinstance(batch, FailedBatch):
                raise batch.error
            yield feed(batch).take(), _labels(batch, plan).to(device)


def _labels(batch: ViewBatch, plan: GenerationPlan) -> torch.Tensor:
    for part in batch.parts:
        if part.label >= plan.num_classes:
            raise DatasetMismatchError(
                f"image {plan.keys[part.row]!r} has label {part.label}, the teachers have "
                f"{plan.num_classes} classes; compare teachers of the dataset's classes"
            )
    labels = [part.label for part in batch.parts]
    return torch.tensor(labels).repeat_interleave(plan.settings.samples)
