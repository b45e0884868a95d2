"""Timing two things in turn, and printing what came out."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dr_plugins.shards.manifest import library_versions


@dataclass(frozen=True)
class Row:
    """One line of a result table: `ours` against `peer`, in `unit`; a higher ratio is better."""

    what: str
    peer: str
    unit: str
    ours: float
    theirs: float
    ratio: float
    hold: float

    def line(self) -> str:
        verdict = "held" if self.ratio >= self.hold else "MISSED"
        return (
            f"{self.what:<44} {self.ours:>10.4g} {self.theirs:>10.4g} {self.unit:<9} "
            f"{self.ratio:>8.2f}x  (hold {self.hold:g}x: {verdict})  peer: {self.peer}"
        )


@dataclass(frozen=True)
class Limit:
    """One line without a peer: a cost in `unit` that is to stay below `hold`."""

    what: str
    unit: str
    cost: float
    hold: float

    def line(self) -> str:
        verdict = "held" if self.cost <= self.hold else "MISSED"
        return f"{self.what:<44} {self.cost:>10.4g} {self.unit:<9} (hold {self.hold:g}: {verdict})"


def compare(
    ours: Callable[[], int], theirs: Callable[[], int], rounds: int = 5
) -> tuple[float, float, float]:
    """Time two functions in turn, after one warm-up of each.

    Each returns how many items it handled. Taking turns lets a drift in speed hit both.

    Returns:
        Median seconds per item of both, and the median over rounds of theirs / ours.
    """
    pairs = []
    for index in range(rounds + 1):
        pair = tuple(_seconds_per_item(function) for function in (ours, theirs))
        if index:
            pairs.append(pair)
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(b / a for a, b in pairs),
    )


def _seconds_per_item(function: Callable[[], int]) -> float:
    start = time.perf_counter()
    count = function()
    return (time.perf_counter() - start) / count


def report(title: str, rows: Sequence[Row | Limit], out: Path) -> None:
    """Print a table and write it, with the machine's description, as JSON."""
    print(f"\n{title}\n{'':<44} {'ours':>10} {'peer':>10}")
    for row in rows:
        print(row.line())
    machine = {"platform": platform.platform(), "versions": library_versions()}
    out.parent.mkdir(parents=True, exist_ok=True)
    data = {"title": title, "machine": machine, "rows": [asdict(row) for row in rows]}
    out.write_text(json.dumps(data, indent=1))
