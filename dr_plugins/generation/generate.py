"""Generating a shard set: augments every image and stores the teacher's answers in shards.

The views of a batch depend on the settings alone: not on the number of workers or processes, nor on
where an interrupted run stopped. So a resumed run, or one of many processes, produces the same set
as an uninterrupted one in a single process.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch

from dr_plugins.errors import OutputError
from dr_plugins.generation.agreement import check_agreement, measure_agreement
from dr_plugins.generation.grace import Grace
from dr_plugins.generation.making import ShardMaker
from dr_plugins.generation.planning import GenerationPlan, GenerationSettings, plan_generation
from dr_plugins.generation.readable import CHECKS, check_readable, log_images
from dr_plugins.generation.resuming import asked_again
from dr_plugins.generation.sharing import Part, Process, SharedProgress, SharedShards
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.generation.views import ViewBatch
from dr_plugins.images.sources import ImageSource
from dr_plugins.shards.claims import Claims, joined
from dr_plugins.shards.manifest import Manifest
from dr_plugins.shards.output import OutputDirectory, finished_set
from dr_plugins.shards.shard import Shard, shard_name

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
    manifest = reinforce_part(
        source,
        teacher,
        out,
        settings,
        teacher_specs=teacher_specs,
        device=device,
        workers=workers,
        views_on=views_on,
        min_agreement=min_agreement,
        left_out=left_out,
        check_images=check_images,
        progress=progress,
    )
    assert manifest is not None  # the only part
    return manifest


def reinforce_part(
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
    part: Part | None = None,
    process: Process | None = None,
    grace: float = 0,
) -> Manifest | None:
    """Do what `reinforce` does, for a part of the set or as one of several processes.

    The arguments are those of `reinforce` and three more: `part`, the shards to make, None for all;
    `process`, which of several processes this is, which check a share of the images each; and
    `grace`, the seconds after SIGTERM to finish the shard at hand. The progress bar counts the
    images of all processes.

    Returns:
        The manifest of the complete set; None if other parts are missing.

    Raises:
        ReinforcementError: See `reinforce`.
        ValueError: See `reinforce`.
    """
    if views_on not in _VIEWS_ON:
        raise ValueError(f"views_on is {views_on!r}; expected one of {_VIEWS_ON}")
    if check_images not in (None, *CHECKS):
        raise ValueError(f"check_images is {check_images!r}; expected one of {(None, *CHECKS)}")
    device, process = torch.device(device), process or Process()
    teacher = teacher.placed(device)
    plan = plan_generation(
        source, teacher, settings, teacher_specs=teacher_specs, device=device, left_out=left_out
    )
    log_images(plan.source)
    if complete := finished_set(out, plan.identity):
        _logger.info("%s is already complete", out)
        return complete
    with joined(out) as claims:
        with claims.preparing() as alone:
            if complete := finished_set(out, plan.identity):
                return complete
            output = OutputDirectory(out, plan.identity, plan.layout, plan.keys, alone=alone)
            if alone:
                output.save_index()
        shards = SharedShards(output, claims, (part or Part()).shards(plan.views.shards))
        if check_images is not None:
            mine = shards.pending[process.index :: process.count]
            _check_images(plan, mine, check_images, workers=workers, progress=progress)
        if min_agreement != 0:
            agreement = measure_agreement(plan.source, teacher, settings.policy, device)
            check_agreement(agreement, plan.num_classes, min_agreement)
        maker = ShardMaker(plan, output, teacher, device, workers=workers, views_on=views_on)
        _compare_finished(plan, output, claims, shards, maker)
        logged = bool(process.name) and not progress
        with SharedProgress(plan, output, shown=progress, logged=logged) as bar:
            run = _Run(plan, output, claims, shards, maker, bar, Grace(grace), process)
            return run.make_all()


class _Run:
    """What one process does after all checks."""

    def __init__(
        self,
        plan: GenerationPlan,
        output: OutputDirectory,
        claims: Claims,
        shards: SharedShards,
        maker: ShardMaker,
        bar: SharedProgress,
        grace: Grace,
        process: Process,
    ) -> None:
        self._plan, self._output, self._claims, self._shards = plan, output, claims, shards
        self._maker, self._bar, self._grace, self._process = maker, bar, grace, process

    def make_all(self) -> Manifest | None:
        """Make the shards that nobody else makes, and finish the set if it is complete."""
        while True:
            self._make_free()
            while self._shards.pending:
                self._shards.wait()
                self._bar.refresh()
                self._make_free()
            self._bar.refresh()
            missing = self._output.missing(range(self._plan.views.shards))
            missing = [number for number in missing if not self._output.has(number)]
            if missing:
                _logger.info("%d shards of other parts are not finished", len(missing))
                return None
            if manifest := self._finish():
                return manifest

    def _make_free(self) -> None:
        try:
            with self._grace.delaying():
                self._maker.make_shards(
                    self._shards.free(), self._bar.advance, store=self._store, check=self._check
                )
        except Exception as error:
            self._note(error)
            raise

    def _finish(self) -> Manifest | None:
        """Write the manifest; None if shards turn out to be damaged, which are then pending."""
        views = self._plan.views
        with self._claims.finishing():
            if complete := finished_set(self._output.directory, self._plan.identity):
                return complete
            kept = {n: self._output.keep(n, *views.place(n)) for n in range(views.shards)}
            damaged = [number for number, intact in kept.items() if not intact]
            if not damaged:
                return self._output.finish()
            for number in damaged:
                self._output.discard(number)
            self._shards.pending = damaged
            return None

    def _store(self, number: int, shard: Shard) -> None:
        self._shards.store(number, shard)
        self._bar.stored(number)

    def _check(self, batch: ViewBatch) -> None:
        self._grace.check(new_shard=batch.first == 0)

    def _note(self, error: Exception) -> None:
        """Store why a shard could not be made, so that other processes make it last."""
        number, name = self._maker.current, self._process.name
        if number is None:
            return
        # A failing disk, or PyTorch's handler of SIGCHLD, which raises anywhere.
        with contextlib.suppress(OutputError, RuntimeError):
            _logger.error("failed in %s", shard_name(number))
            self._output.note_failure(number, name, f"{type(error).__name__}: {error}")


def _compare_finished(
    plan: GenerationPlan,
    output: OutputDirectory,
    claims: Claims,
    shards: SharedShards,
    maker: ShardMaker,
) -> None:
    """Compare a few finished shards with what this process would make; damaged ones are pending."""
    every = range(plan.views.shards)
    finished = sorted({*every} - {*output.missing(every)})
    if not finished or len(finished) == len(every):
        return
    _logger.info("resuming: %d of %d shards are finished", len(finished), len(every))
    for number in asked_again(finished):
        if output.keep(number, *plan.views.place(number)):
            maker.compare_shards([number])
        elif claims.take(number):
            output.discard(number)
            shards.pending.append(number)
            claims.give_back(number)


def _check_images(plan: GenerationPlan, numbers: Sequence[int], check: str, **options: Any) -> None:
    """Look at the images of some shards, with the `options` of `check_readable`."""
    rows = itertools.chain.from_iterable(map(plan.views.rows, numbers))
    positions = plan.keys.rows(plan.source.keys).argsort()[list(rows)]
    check_readable(plan.source, positions.tolist(), check=check, **options)
