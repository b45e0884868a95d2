"""A comparison as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dr_plugins.comparison.results import TeacherComparison
from dr_plugins.evaluation.figures import new_figure, save_figure

_LONGEST = 44  # characters of a name


def draw(comparison: TeacherComparison, path: Path) -> None:
    """Draw accuracy, calibration error and cost of all candidates, and how alike the teachers are.

    Args:
        comparison: Of any number of teachers.
        path: The PNG file.

    Raises:
        EvaluationError: matplotlib is not installed, or the file cannot be written.

    Example:
        >>> draw(comparison, Path("comparison.png"))                        # doctest: +SKIP
    """
    candidates = comparison.candidates
    names = [each.name for each in candidates if len(each.teachers) == 1]
    figure = new_figure(14, max(3.6, 1.4 + 0.34 * len(candidates)))
    accuracy, error, cost, alike = figure.subplots(1, 4, width_ratios=(1.3, 1, 1, 1.5))
    rows = np.arange(len(candidates))
    # One teacher blue, two orange, more green.
    colours = [f"C{min(len(each.teachers), 3) - 1}" for each in candidates]

    def metric(name: str) -> list[float]:
        return [100 * each.metrics.get(name, np.nan) for each in candidates]

    deviations = [100 * each.top1_error for each in candidates]
    accuracy.errorbar(
        metric("top1"), rows, xerr=np.nan_to_num(deviations), fmt="none", color="gray"
    )
    accuracy.scatter(metric("top1"), rows, color=colours, zorder=2)
    accuracy.set(title="top-1, %")
    accuracy.set_yticks(rows, [_short(each.name) for each in candidates], fontsize=8)
    error.barh(rows, metric("ece"), color=colours)
    error.set(title="calibration error, %")
    cost.barh(rows, [each.ms_per_view for each in candidates], color=colours)
    cost.set(title="ms per view")
    for axis in (accuracy, error, cost):
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.grid(axis="x", alpha=0.3)
    for axis in (error, cost):
        axis.set_yticks([])
    _draw_alike(alike, comparison, names)
    figure.suptitle(
        f"{comparison.images:,} images, {comparison.samples} views of each, {comparison.device}",
        fontsize=10,
    )
    save_figure(figure, path)


def _draw_alike(axis: Any, comparison: TeacherComparison, names: list[str]) -> None:
    """Agreement above the diagonal, rank correlation below."""
    values = np.full((len(names), len(names)), np.nan)
    for pair in comparison.pairs:
        first, second = map(names.index, pair.teachers)
        values[first, second], values[second, first] = pair.agreement, pair.rank_correlation
    axis.imshow(values, vmin=0, vmax=1, cmap="Blues")
    for (y, x), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if value > 0.6 else "black"
            axis.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    ticks = range(len(names))
    axis.set_yticks(ticks, [_short(name) for name in names], fontsize=8)
    axis.set_xticks(ticks, [_short(name) for name in names], fontsize=8, rotation=30, ha="right")
    axis.set_title("same top class (above the diagonal),\nrank correlation (below)", fontsize=9)


def _short(name: str) -> str:
    """A name whose beginning, which teachers of one scheme share, gives way."""
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
