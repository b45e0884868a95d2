"""What the module of any scheduler needs: how many processes, and waiting for their set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dr_plugins.errors import FormatError
from dr_plugins.generation.unfinished import measure_progress
from dr_plugins.utils.files import MANIFEST_NAME, PROGRESS_NAME


@dataclass(frozen=True)
class Actors:
    """How many actors there are, and what each occupies.

    Attributes:
        least: Number at the start.
        most: Number up to which more are started, one after the other as the cluster has room.
        gpus: GPUs of each.
        cpus: CPU cores of each.
        resources: Custom resources of each, such as ``{"a100": 1}``, which place it.

    Raises:
        ValueError: Not ``1 <= least <= most``.
    """

    least: int = 1
    most: int = 1
    gpus: float = 0
    cpus: float = 1
    resources: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(f"{self.least} to {self.most} actors; expected 1 <= MIN <= MAX")


def follow(out: Path, look: Callable[[], bool], progress: bool) -> None:
    """Wait until a set is complete, or nothing works on it any more.

    Args:
        out: Directory of the set.
        look: Waits for a moment; returns whether some process still works.
        progress: Show a bar of the images that all processes have completed.
    """
    with tqdm(unit=" images", disable=not progress) as bar:
        while not _is_complete(out) and look():
            _refresh(bar, out)
        if _is_complete(out) and bar.total:
            bar.update(bar.total - bar.n)


def _is_complete(out: Path) -> bool:
    return (out / MANIFEST_NAME).exists() and not (out / PROGRESS_NAME).exists()


def _refresh(bar: Any, out: Path) -> None:
    try:
        progress = measure_progress(out)
    except (FormatError, OSError):  # not begun, or just finished
        return
    bar.total = progress.images
    bar.update(progress.done - bar.n)
