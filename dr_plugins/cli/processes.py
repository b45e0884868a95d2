"""What a command does differently as one of several processes: messages, devices, its end."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dr_plugins.generation.engines import Actors
    from dr_plugins.generation.launch import Rank
    from dr_plugins.generation.sharing import Part

_WORKERS_ELSEWHERE = 4
_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def ending(rank: Rank | None, out: Path) -> Iterator[None]:
    """Say how to resume. Under torchrun, end only when no other rank works.

    torchrun ends all ranks as soon as one fails. So a rank that fails waits until the others have
    made what is left; then it fails, unless the set is complete without it.
    """
    from dr_plugins.errors import ReinforcementError
    from dr_plugins.shards.claims import waited_for_others
    from dr_plugins.utils.files import MANIFEST_NAME

    try:
        yield
    except KeyboardInterrupt:
        click.echo("\nRun the same command to resume after the last finished shard.", err=True)
        raise
    except Exception as error:
        if rank is None or not out.is_dir():
            raise
        unexpected = not isinstance(error, ReinforcementError)
        _logger.error("failed, the other ranks continue: %s", error, exc_info=unexpected)
        waited_for_others(out)
        if not (out / MANIFEST_NAME).exists():
            raise
        _logger.warning("the other ranks have completed the set")


def name_messages(name: str) -> None:
    """Begin log messages with the name of the process, if there are several."""
    if name:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(logging.Formatter(f"{name}: %(levelname)s: %(message)s"))


def count_workers(chosen: int | None, processes: int, engine: str | None) -> int:
    """Return the workers of each of several processes on this machine.

    By default there is one for each core; on a cluster, whose machines are unknown here, 4.
    """
    cores = len(os.sched_getaffinity(0))
    default = _WORKERS_ELSEWHERE if engine else max(1, cores // processes)
    return default if chosen is None else chosen


def parse_actors(
    numbers: str,
    gpus: float | None,
    resources: Sequence[str],
    workers: int,
    device: str,
    teacher_devices: Sequence[str],
) -> Actors:
    """Return the actors that ``--actors`` and the options next to it describe.

    Raises:
        BadParameter: One of them cannot be parsed.
    """
    from dr_plugins.generation.engines import Actors

    if gpus is None:
        gpus = len({name for name in (device, *teacher_devices) if name.startswith("cuda")})
    try:
        least, _, most = numbers.partition(":")
        pairs = [entry.partition("=") for entry in resources]
        amounts = {name: float(amount) for name, _, amount in pairs}
        return Actors(int(least), int(most or least), gpus, 1 + workers, amounts)
    except ValueError as error:
        raise click.BadParameter(
            f"{error}; expected MIN or MIN:MAX, and NAME=AMOUNT for resources",
            param_hint="--actors, --actor-resource",
        ) from error


def parse_part(text: str | None) -> Part | None:
    """Return the part that ``--part`` names.

    Raises:
        BadParameter: It names none.
    """
    from dr_plugins.generation.sharing import Part

    try:
        return None if text is None else Part.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--part") from error


def import_modules(names: Iterable[str]) -> None:
    """Import modules that a user names; those of the current directory are found from now on.

    Raises:
        BadParameter: One of them cannot be imported.
    """
    sys.path.append(os.getcwd())
    try:
        for name in names:
            importlib.import_module(name)
    except ImportError as error:
        raise click.BadParameter(str(error), param_hint="--import") from error


def usable_device(name: str) -> str:
    """Return a device's name after a check that it works; a CUDA device becomes the current one.

    Otherwise threads would occupy the first CUDA device as well.

    Raises:
        BadParameter: The device does not work.
    """
    import torch

    try:
        torch.zeros(1, device=name)
        if torch.device(name).type == "cuda":
            torch.cuda.set_device(name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise click.BadParameter(reason, param_hint="--device") from error
    return name
