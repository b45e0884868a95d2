"""Generating a shard set: augments every image and stores the teacher's answers in shards.

Worker processes decode the images and draw the parameters. They or the teacher's device make the
views. Answers are copied and stored while the teacher works on the next batch. The views of a batch
depend on the settings alone, not on the number of workers or on where an interrupted run stopped,
so a resumed run produces the same set as an uninterrupted one.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from dr_plugins.errors import ReinforcementError
from dr_plugins.generation.agreement import check_agreement, measure_agreement
from dr_plugins.generation.background import Background
from dr_plugins.generation.planning import (
    GenerationPlan,
    GenerationSettings,
    pending_shards,
    plan_generation,
)
from dr_plugins.generation.predictor import Prediction, Predictor
from dr_plugins.generation.readable import CHECKS, check_readable, log_images
from dr_plugins.generation.resuming import asked_again, check_answers, check_views
from dr_plugins.generation.shard_builder import ShardBuilder
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.generation.view_maker import ViewMaker
from dr_plugins.generation.views import ViewBatch, ViewBatches, ViewPlan
from dr_plugins.images.sources import ImageSource
from dr_plugins.shards.manifest import Manifest
from dr_plugins.shards.output import OutputDirectory, finished_set, locked
from dr_plugins.utils.workers import alive, check_room, noticing_dead_workers

__all__ = ["GenerationSettings", "ShardMaker", "reinforce"]

# Always images per second: tqdm inverts slow rates by default.
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
# Answers in flight: enough to keep the teacher busy, few enough to bound memory.
_UNFINISHED = {"cuda": 2}
_VIEWS_ON = (None, "workers", "device")
_logger = logging.getLogger(__name__)


def reinforce(
    source: ImageSource,
    teacher: Ensemble,
    out: str | PathLike[str],
    settings: GenerationSettings,
    *,
    teacher_specs: Sequence[str] = (),
    device: str | torch.device = "cpu",
    workers: int = 0,
    views_on: str | None = None,
    min_agreement: float | None = None,
    left_out: Sequence[str] = (),
    check_images: str | None = "quick",
    progress: bool = False,
) -> Manifest:
    """Generate a shard set, or resume an interrupted one.

    Args:
        source: The training images.
        teacher: Answers the views; its weights become part of the set's identity.
        out: Directory of the set; created if needed.
        settings: Settings of the set.
        teacher_specs: Names of the teachers, for the manifest.
        device: Where the teacher runs.
        workers: Processes that decode and augment; 0 uses this process.
        views_on: Where the views are made, with identical bits: ``"workers"``; or ``"device"``, the
            teacher's, while workers only decode. None means the device if it is a CUDA device.
        min_agreement: Least share of a sample of views in which the teacher's top class is the
            label; see `check_agreement`. 0 skips the check.
        left_out: Keys of images to leave out. They become part of the set's identity, so training
            leaves them out too.
        check_images: How to look for unreadable images before the teacher starts: ``"quick"``
            checks their beginnings and ends, ``"full"`` decodes them, None skips the check.
        progress: Show a progress bar.

    Returns:
        The manifest of the complete set.

    Raises:
        DatasetMismatchError: Teacher and images have different classes, or there are no images.
        ImageReadError: Images cannot be read; finished shards are kept.
        SettingsMismatchError: `out` holds a set with other settings, or shards of another teacher.
        ImageChangedError: An image has changed since its finished shard was made.
        TeacherError: The teacher's answers are not logits ``[B, C]``, or not reproducible.
        LockedError: Another generator writes to `out`.
        OutputError: A file cannot be written; finished shards are kept.
        DeviceMismatchError: The views of device and CPU differ.
        WorkerError: A worker died, or shared memory is too small for the workers' batches.
        ValueError: `views_on` or `check_images` is not one of the choices.

    Example:
        >>> from dr_plugins import Policy
        >>> policy = Policy.load("randaug", size=224)
        >>> reinforce(open_source("imagenet/train"),                        # doctest: +SKIP
        ...           Ensemble([load_teacher("timm:resnet50")]),
        ...           "imagenet-plus", GenerationSettings(policy), workers=8)
    """
    if views_on not in _VIEWS_ON:
        raise ValueError(f"views_on is {views_on!r}; expected one of {_VIEWS_ON}")
    if check_images not in (None, *CHECKS):
        raise ValueError(f"check_images is {check_images!r}; expected one of {(None, *CHECKS)}")
    device = torch.device(device)
    teacher = teacher.to(device)
    plan = plan_generation(
        source, teacher, settings, teacher_specs=teacher_specs, device=device, left_out=left_out
    )
    log_images(plan.source)
    if complete := finished_set(out, plan.identity):
        _logger.info("%s is already complete", out)
        return complete
    with locked(out):
        output = OutputDirectory(out, plan.identity, plan.layout, plan.keys)
        pending = pending_shards(plan, output)
        if check_images is not None:
            _check_images(plan, pending, check_images, workers=workers, progress=progress)
        if min_agreement != 0:
            agreement = measure_agreement(plan.source, teacher, settings.policy, device)
            check_agreement(agreement, plan.num_classes, min_agreement)
        maker = ShardMaker(plan, output, teacher, device, workers=workers, views_on=views_on)
        finished = sorted(set(range(plan.views.shards)) - set(pending))
        if pending and finished:
            maker.compare_shards(asked_again(finished))
        with _bar(plan.views, pending, progress) as bar:
            maker.make_shards(pending, bar.update)
        return output.finish()


class ShardMaker:
    """Makes shards of a planned set in one process, with one teacher on one device.

    Args:
        plan: What the set is.
        output: Where the shards go.
        teacher: Answers the views; on `device`.
        device: Where the teacher runs.
        workers: As for `reinforce`.
        views_on: As for `reinforce`.
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
        self._plan, self._output, self._device, self._workers = plan, output, device, workers
        self._whole = views_on == "workers" if views_on else device.type != "cuda"
        settings = plan.settings
        self._feed = ViewMaker(settings.policy, plan.layout, device)
        self._ask = Predictor(teacher, plan.num_classes, settings.topk, settings.batch_size)

    def make_shards(self, numbers: Sequence[int], advance: Callable[[int], object]) -> None:
        """Make and store shards.

        Args:
            numbers: Of the shards, ascending.
            advance: Called with the number of images that were completed since the last call.

        Raises:
            ReinforcementError: See `reinforce`.
        """
        plan, device = self._plan, self._device
        loader = _loader(self._batches_of(numbers), self._workers, device)
        builder = ShardBuilder(self._output, plan.views, plan.layout, plan.keys, plan.num_classes)

        def store(answer: Prediction) -> None:
            advance(builder.add(answer))

        # On CUDA, making views, asking and storing overlap.
        with noticing_dead_workers(), Background(_UNFINISHED.get(device.type, 0)) as background:
            for batch in _batches(loader):
                background.call(store, self._ask(batch, self._feed(batch)))

    def compare_shards(self, numbers: Sequence[int]) -> None:
        """Make the first batch of finished shards again and compare it with what is stored.

        Raises:
            ReinforcementError: See `check_views` and `check_answers`.
        """
        plan, output = self._plan, self._output
        for batch in _batches(self._batches_of(numbers).first_of_each()):
            shard = output.stored(batch.shard, *plan.views.place(batch.shard))
            views = self._feed(batch).take()
            check_views(batch, shard, plan.layout, plan.keys, views)
            precision = plan.identity["precision"]
            check_answers(batch, shard, self._ask, views, precision, output.directory)

    def _batches_of(self, numbers: Sequence[int]) -> ViewBatches:
        plan, settings = self._plan, self._plan.settings
        return ViewBatches(
            plan.source,
            plan.keys,
            plan.views,
            numbers,
            settings.policy,
            plan.layout,
            settings.seed,
            self._whole,
        )


def _check_images(plan: GenerationPlan, numbers: Sequence[int], check: str, **options: Any) -> None:
    """Look at the images of some shards, with the `options` of `check_readable`."""
    rows = itertools.chain.from_iterable(map(plan.views.rows, numbers))
    positions = plan.keys.rows(plan.source.keys).argsort()[list(rows)]
    check_readable(plan.source, positions.tolist(), check=check, **options)


def _loader(batches: ViewBatches, workers: int, device: torch.device) -> DataLoader[Any]:
    check_room(workers, len(batches), batches.batch_bytes)
    pinned = device.type == "cuda"
    return DataLoader(batches, batch_size=None, num_workers=workers, pin_memory=pinned)


def _bar(plan: ViewPlan, pending: Sequence[int], shown: bool) -> Any:
    done = plan.images - sum(len(plan.rows(number)) for number in pending)
    if done:
        kept = plan.shards - len(pending)
        _logger.info("resuming: %d of %d shards are finished", kept, plan.shards)
    return tqdm(
        desc=f"{plan.samples} views of each image",
        total=plan.images,
        initial=done,
        unit=" images",
        bar_format=_BAR,
        disable=not shown,
    )


def _batches(loader: Iterable[Any]) -> Iterator[ViewBatch]:
    for batch in alive(loader):
        if isinstance(batch, ReinforcementError):
            raise batch
        yield batch
