"""Generation on a Ray cluster: actors that make shards as any other process does.

Ray decides where actors run, and starts them again when they or their nodes die; the claims in the
directory of the set decide who makes what (see `Claims`). All nodes must see that directory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from dr_plugins.errors import ReinforcementError, WorkerError
from dr_plugins.generation.engines import Actors, follow
from dr_plugins.generation.job import GenerationJob
from dr_plugins.generation.sharing import Process
from dr_plugins.shards.manifest import Manifest
from dr_plugins.utils.files import MANIFEST_NAME

_RESTARTS = 100  # of each actor: many for spot machines, few enough to notice one that never works
_LOOK = 2.0  # seconds between looks at actors and shards
_logger = logging.getLogger(__name__)


def reinforce_on_ray(
    job: GenerationJob,
    actors: Actors,
    device: str,
    *,
    teacher_devices: tuple[str, ...] = (),
    progress: bool = False,
) -> Manifest:
    """Make a set with actors on the Ray cluster that ``RAY_ADDRESS`` names, or on this machine.

    Args:
        job: What to make. Its paths must exist on all nodes; `job.path` is where relative ones
            begin.
        actors: How many, and their resources.
        device: Of each actor, among the GPUs that it got.
        teacher_devices: As for `GenerationJob.run`, among the GPUs that the actor got.
        progress: Show a bar of the images that all actors have completed.

    Returns:
        The manifest of the complete set.

    Raises:
        ReinforcementError: The set is incomplete and no actor is left; the first actor's error.
        WorkerError: Ray is not installed, or an actor died too often.
    """
    ray = _ray()
    job = replace(job, out=Path(os.path.abspath(job.out)))
    if not ray.is_initialized():
        _connect(ray)
    crew = _Crew(ray, job, actors, device, teacher_devices)
    try:
        follow(job.out, crew.look, progress)
    finally:
        crew.end()
    if not (job.out / MANIFEST_NAME).exists():
        raise crew.error or WorkerError("all actors ended before the set was complete")
    return Manifest.load(job.out)


class _Crew:
    """The actors of one run."""

    def __init__(self, ray: Any, job: GenerationJob, actors: Actors, *devices: Any) -> None:
        self._ray, self._job, self._actors, self._devices = ray, job, actors, devices
        self._all: list[Any] = []
        self._newest: Any = None  # resolves when the youngest actor has been placed
        self._working: list[Any] = []
        self.error: Exception | None = None
        for _ in range(actors.least):
            self._start()

    def look(self) -> bool:
        """Wait for an actor to end, for a moment; returns whether some are left."""
        ended, self._working = self._ray.wait(self._working, timeout=_LOOK)
        for result in ended:
            try:
                self._ray.get(result)
            except Exception as error:  # whatever the teacher raises, or Ray
                self._note(error)
        more = len(self._all) < self._actors.most and self._working and not ended
        if more and self._is_placed():
            self._start()
        return bool(self._working)

    def end(self) -> None:
        """End all actors, those included that wait for a place."""
        for actor in self._all:
            self._ray.kill(actor)

    def _is_placed(self) -> bool:
        return bool(self._ray.wait([self._newest], timeout=0)[0])

    def _start(self) -> None:
        actors, number = self._actors, len(self._all)
        options = {
            "num_gpus": actors.gpus,
            "num_cpus": actors.cpus,
            "resources": dict(actors.resources),
            "max_restarts": _RESTARTS,
            "max_task_retries": _RESTARTS,
        }
        process = Process(f"actor {number}", number % actors.least, actors.least)
        actor = self._ray.remote(_Generator).options(**options).remote(self._job, process)
        self._all.append(actor)
        self._newest = actor.ready.remote()
        self._working.append(actor.work.remote(*self._devices))

    def _note(self, error: Exception) -> None:
        # The text of Ray's error is the actor's traceback; its cause is what the actor raised.
        cause = getattr(error, "cause", None)
        if not isinstance(cause, ReinforcementError):
            cause = WorkerError(f"an actor ended: {error}")
        _logger.error("an actor failed, the others continue: %s", cause)
        self.error = self.error or cause


class _Generator:
    """An actor: one process with the teacher on its device."""

    def __init__(self, job: GenerationJob, process: Process) -> None:
        self._job, self._process = job, process
        if job.path is not None:  # where relative paths begin, also for actors
            with contextlib.suppress(OSError):  # this machine need not have it
                os.chdir(job.path)
        logging.basicConfig(
            format=f"{process.name}: %(levelname)s: %(message)s", level=logging.INFO, force=True
        )

    def ready(self) -> None:
        """Return as soon as the actor runs."""

    def work(self, device: str, teacher_devices: tuple[str, ...]) -> None:
        """Make shards until none is left."""
        self._job.run(device, self._process, teacher_devices=teacher_devices)


def _connect(ray: Any) -> None:
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    ray.init()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray's handler ends the process with an abort


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise WorkerError(
            f'`--engine ray` needs Ray: {error}. Install it with `pip install "dr-plugins[ray]"`.'
        ) from error
    return ray
