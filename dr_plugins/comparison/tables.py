"""A comparison as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dr_plugins.comparison.results import Candidate, TeacherComparison
from dr_plugins.metrics.image_scores import METRICS


def markdown(comparison: TeacherComparison) -> str:
    """Return a comparison as two tables: teachers and ensembles, and pairs of teachers.

    Example:
        >>> print(markdown(comparison))                                     # doctest: +SKIP
        | teachers | top-1, % | top-5, % | ECE, % | adaptive ECE, % | NLL | ...
    """
    head = (
        "teachers",
        *(metric.title for metric in METRICS.values()),
        "entropy, nats",
        "spread, nats",
        "ms per view",
    )
    lines = [
        f"{comparison.images:,} images, {comparison.samples} views of each, on "
        f"{comparison.device}; {comparison.labelled:,} images have a label",
        "",
        *_table(head, [_row(candidate) for candidate in comparison.candidates]),
    ]
    if comparison.pairs:
        rows = [
            [
                *map(_escaped, pair.teachers),
                f"{100 * pair.agreement:.1f}",
                f"{pair.rank_correlation:.2f}",
            ]
            for pair in comparison.pairs
        ]
        lines += ["", *_table(("teacher", "and", "same top class, %", "rank correlation"), rows)]
    return "\n".join(lines) + "\n"


def _row(candidate: Candidate) -> list[str]:
    cells = [_escaped(candidate.name)]
    for name, metric in METRICS.items():
        value = candidate.metrics.get(name, math.nan)
        cell = "" if math.isnan(value) else f"{metric.factor * value:.{metric.digits}f}"
        if cell and name == "top1" and not math.isnan(candidate.top1_error):
            cell += f" ± {metric.factor * candidate.top1_error:.{metric.digits}f}"
        cells.append(cell)
    numbers = f"{candidate.entropy:.3f}", f"{candidate.spread:.3f}", f"{candidate.ms_per_view:.3g}"
    return [*cells, *numbers]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def _escaped(name: str) -> str:
    return name.replace("|", "\\|")
