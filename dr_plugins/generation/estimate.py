"""What making a shard set would cost: some batches are made and timed, the rest is arithmetic."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dr_plugins.generation.making import ShardMaker
from dr_plugins.generation.planning import GenerationPlan, GenerationSettings, plan_generation
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.generation.views import ViewBatch
from dr_plugins.images.sources import ImageSource
from dr_plugins.shards.output import OutputDirectory
from dr_plugins.shards.shard import Shard, shard_name

_WARM_UP = 2  # batches that are not timed: kernels are chosen, memory is reserved
_SECONDS = 30.0  # and at least as long
_BATCHES = 8


@dataclass(frozen=True)
class Estimate:
    """The cost of a shard set.

    Attributes:
        images: Number of images.
        samples: Reinforcements per image.
        record_bytes: Bytes of one reinforcement.
        device: Type of the device that was measured.
        timed_views: How many views were timed.
        seconds: How long they took.
        bytes: Size of all shards and of the index.
        files: Number of files.
    """

    images: int
    samples: int
    record_bytes: int
    device: str
    timed_views: int
    seconds: float
    bytes: int
    files: int

    @property
    def device_hours(self) -> float:
        """Time on one device like the measured one."""
        return self.images * self.samples * self.seconds / self.timed_views / 3600

    def __str__(self) -> str:
        unit = "GPU" if self.device == "cuda" else self.device
        return (
            f"{self.images:,} images x {self.samples:,} reinforcements = "
            f"{self.images * self.samples:,} views\n"
            f"measured: {self.timed_views:,} views in {self.seconds:.1f} s, "
            f"{self.timed_views / self.seconds:,.1f} a second\n"
            f"time: {self.device_hours:,.2f} {unit}-hours; N devices that work side by side take "
            f"an N-th\n"
            f"disk: {self.bytes / 1e9:,.3f} GB in {self.files:,} files, {self.record_bytes} bytes "
            f"a reinforcement"
        )


def estimate(
    source: ImageSource,
    teacher: Ensemble,
    settings: GenerationSettings,
    *,
    device: str | torch.device = "cpu",
    workers: int = 0,
    views_on: str | None = None,
    left_out: Sequence[str] = (),
    seconds: float = _SECONDS,
) -> Estimate:
    """Time the first batches of a shard set, and compute its size. Nothing is kept.

    Args:
        source: As for `reinforce`, and so are all other arguments but `seconds`.
        teacher: See there.
        settings: See there.
        device: See there.
        workers: See there.
        views_on: See there.
        left_out: See there.
        seconds: How long to measure at least, unless the set has no more batches.

    Raises:
        ReinforcementError: As `reinforce`.

    Example:
        >>> print(estimate(open_source("imagenet/train"), teacher,      # doctest: +SKIP
        ...                GenerationSettings(policy), device="cuda", workers=16))
    """
    device = torch.device(device)
    teacher = teacher.placed(device)
    plan = plan_generation(
        source, teacher, settings, teacher_specs=(), device=device, left_out=left_out
    )
    with tempfile.TemporaryDirectory() as folder:
        output = OutputDirectory(folder, plan.identity, plan.layout, plan.keys)
        size = _size(plan, output, Path(folder))
        maker = ShardMaker(plan, output, teacher, device, workers=workers, views_on=views_on)
        clock = _Clock(device, seconds)
        with contextlib.suppress(_EnoughError):
            maker.make_shards(
                range(plan.views.shards), lambda _: None, store=lambda *_: None, check=clock.tick
            )
        timed = clock.stop()
    return Estimate(
        len(plan.keys),
        settings.samples,
        plan.layout.itemsize,
        device.type,
        timed,
        clock.seconds,
        size,
        plan.views.shards + 2,  # the index and the manifest
    )


class _EnoughError(Exception):
    """Ends the measurement."""


class _Clock:
    """Counts views from the end of the warm-up, or from the first batch if there are few."""

    def __init__(self, device: torch.device, at_least: float) -> None:
        self._device, self._at_least = device, at_least
        self._batches = self._views = 0
        self._start = 0.0
        self.seconds = 0.0

    def tick(self, batch: ViewBatch) -> None:
        """Note that a batch is about to be answered."""
        if self._batches in (0, _WARM_UP):
            self._start, self._views = self._now(), 0
        elif self._batches >= _WARM_UP + _BATCHES and self._now() - self._start >= self._at_least:
            raise _EnoughError
        self._batches += 1
        self._views += len(batch.records)

    def stop(self) -> int:
        """Stop, and return the number of views since the start."""
        self.seconds = self._now() - self._start
        return self._views

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _size(plan: GenerationPlan, output: OutputDirectory, folder: Path) -> int:
    """Write a shard of each length that there is, empty, and the index; add up all files."""
    last = plan.views.shards - 1
    sizes = {}
    for number in sorted({0, last}):
        (images, samples), first_row = plan.views.place(number)
        output.add(number, Shard.empty(first_row, images, samples, plan.layout))
        sizes[number] = (folder / shard_name(number)).stat().st_size
    index = (folder / output.save_index().file).stat().st_size
    return last * sizes[0] + sizes[last] + index
