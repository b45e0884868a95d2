"""What the runs' files say: values of a row over its seeds, and differences of two rows."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from examples.evidence.grid import Cost, Entry, Training, Transfer

SEEDS = 3
_KINDS: Mapping[str, type] = {kind.kind: kind for kind in (Training, Cost, Transfer)}


def corrupted(what: str, severity: int | None = None) -> Callable[[dict[str, Any]], float]:
    """Return the function from a run to its mean over corruptions, in percent.

    Args:
        what: ``"accuracy"`` or ``"ece"``.
        severity: 0 to 4; the mean of all if None.
    """
    chosen = slice(None) if severity is None else slice(severity, severity + 1)
    return lambda run: (
        100 * statistics.mean(v for kind in run["corrupted"].values() for v in kind[what][chosen])
    )


METRICS: dict[str, Callable[[dict[str, Any]], float]] = {
    "accuracy": lambda run: 100 * run["test"]["accuracy"],
    "ECE": lambda run: 100 * run["test"]["ece"],
    "NLL": lambda run: run["test"]["nll"],
    "corrupted accuracy": corrupted("accuracy"),
    "corrupted ECE": corrupted("ece"),
}


@dataclass(frozen=True)
class Sample:
    """Values of one quantity, one per seed."""

    values: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def is_complete(self) -> bool:
        """Whether all seeds of the grid are there."""
        return len(self) >= SEEDS

    @property
    def mean(self) -> float:
        """Mean; there must be a value."""
        return statistics.mean(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation of the seeds; 0 of a single one."""
        return statistics.stdev(self.values) if len(self) > 1 else 0.0

    @property
    def is_positive(self) -> bool:
        """All seeds agree in the sign, and the mean is more than two standard errors above 0."""
        error = self.deviation / math.sqrt(len(self))
        return min(self.values) > 0 and self.mean > 2 * error

    def text(self, digits: int = 2, sign: str = "") -> str:
        """Return mean ± standard deviation; how many seeds there are, if some are pending."""
        if not self.values:
            return "pending"
        mean = f"{round(self.mean, digits) + 0.0:{sign}.{digits}f}"  # -0.0 becomes 0.0
        if self.is_complete:
            return f"{mean} ± {self.deviation:.{digits}f}"
        return f"{mean} ({len(self)} of {SEEDS} seeds)"


class Results:
    """The runs that have been made.

    Args:
        runs: Contents of their files.
    """

    def __init__(self, runs: Iterable[dict[str, Any]]) -> None:
        self.runs = {_entry(run): run for run in runs}

    @classmethod
    def load(cls, folder: Path) -> Results:
        """Read the files of a folder.

        Raises:
            click.ClickException: A file is damaged, or of another version of the grid.
        """
        return cls(_read(path) for path in sorted(folder.glob("*.json")))

    def sample(self, row: Entry, metric: str | Callable[[dict[str, Any]], float]) -> Sample:
        """Return the values of a row of the grid, by seed.

        Args:
            row: Its seed does not matter.
            metric: Of `METRICS`, or a function of a run's content.
        """
        value = METRICS[metric] if isinstance(metric, str) else metric
        return Sample(tuple(value(run) for run in self._seeds(row).values()))

    def difference(
        self, row: Entry, base: Entry, metric: str | Callable[[dict[str, Any]], float]
    ) -> Sample:
        """Return `row` minus `base`, for each seed that both have."""
        return self.total([(1, row), (-1, base)], metric)

    def total(
        self,
        terms: Sequence[tuple[int, Entry]],
        metric: str | Callable[[dict[str, Any]], float],
    ) -> Sample:
        """Return the sum of rows, each times its factor, for each seed that all of them have."""
        value = METRICS[metric] if isinstance(metric, str) else metric
        rows = [(factor, self._seeds(row)) for factor, row in terms]
        shared = [seed for seed in rows[0][1] if all(seed in runs for _, runs in rows)]
        return Sample(
            tuple(sum(factor * value(runs[seed]) for factor, runs in rows) for seed in shared)
        )

    def _seeds(self, row: Entry) -> dict[int, dict[str, Any]]:
        rows = {seed: replace(row, seed=seed) for seed in range(100)}
        return {seed: self.runs[run] for seed, run in rows.items() if run in self.runs}


def _read(path: Path) -> dict[str, Any]:
    try:
        run: dict[str, Any] = json.loads(path.read_text())
        _entry(run)
    except (ValueError, KeyError, TypeError) as error:
        raise click.ClickException(
            f"{path} is damaged, or not a run of this grid ({error}); remove it"
        ) from error
    return run


def _entry(run: Mapping[str, Any]) -> Entry:
    entry: Entry = _KINDS[run["kind"]](**run["config"])
    return entry
