"""A comparison as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dr_plugins.comparison.results import Candidate, TeacherComparison

_METRICS = {  # title, factor and digits
    "top1": ("top-1, %", 100, 1),
    "top5": ("top-5, %", 100, 1),
    "ece": ("ECE, %", 100, 1),
    "nll": ("NLL, nats", 1, 3),
}


def markdown(comparison: TeacherComparison) -> str:
    """Return a comparison as two tables: teachers and ensembles, and pairs of teachers.

    Example:
        >>> print(markdown(comparison))                                     # doctest: +SKIP
        | teachers | top-1, % | top-5, % | ECE, % | NLL, nats | entropy, nats | ...
    """
    head = (
        "teachers",
        *(title for title, _, _ in _METRICS.values()),
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
    for name, (_, factor, digits) in _METRICS.items():
        value = candidate.metrics.get(name, math.nan)
        cells.append("" if math.isnan(value) else f"{factor * value:.{digits}f}")
    if cells[1] and not math.isnan(candidate.top1_error):
        cells[1] += f" ± {100 * candidate.top1_error:.1f}"
    numbers = f"{candidate.entropy:.3f}", f"{candidate.spread:.3f}", f"{candidate.ms_per_view:.3g}"
    return [*cells, *numbers]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def _escaped(name: str) -> str:
    return name.replace("|", "\\|")
