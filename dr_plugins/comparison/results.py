"""What a comparison of teachers finds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Candidate:
    """A teacher, or an ensemble of several, on the same views.

    Attributes:
        teachers: Their names.
        metrics: ``top1``, ``top5``, ``ece``, ``adaptive_ece``, ``nll``, ``brier`` over all views
            whose label is known (see `ImageScores.metrics`); empty if no label is.
        top1_error: Standard error of ``top1``, in which the views of an image count as one draw;
            NaN with fewer than two images.
        entropy: Mean entropy of the answers, in nats.
        confidence: Mean of the largest probability.
        spread: Mean over the views of KL(view || mean over the image's views), in nats: how much
            of an answer belongs to the view.
        ms_per_view: Time of the answer to one view in milliseconds, the median over batches.

    Example:
        >>> candidate = Candidate(("a", "b"), {"top1": 0.9}, 0.01, 0.2, 0.93, 0.02, 1.5)
        >>> candidate.name
        'a + b'
    """

    teachers: tuple[str, ...]
    metrics: dict[str, float]
    top1_error: float
    entropy: float
    confidence: float
    spread: float
    ms_per_view: float

    @property
    def name(self) -> str:
        """The names of its teachers, joined."""
        return " + ".join(self.teachers)


@dataclass(frozen=True)
class Pair:
    """How alike two teachers are.

    Attributes:
        teachers: Their names.
        agreement: Share of views with the same top class.
        rank_correlation: Spearman's, over images, of the mean confidence: whether they are sure of
            the same images. NaN if one of them is equally sure of all.

    Example:
        >>> Pair(("a", "b"), agreement=0.92, rank_correlation=0.72).agreement
        0.92
    """

    teachers: tuple[str, str]
    agreement: float
    rank_correlation: float


@dataclass(frozen=True)
class TeacherComparison:
    """Teachers and ensembles on the same views.

    Attributes:
        images: Number of images.
        samples: Views of each.
        labelled: How many of the images have a label.
        device: Type of the device.
        candidates: Each teacher, each pair, and all of them.
        pairs: Of the teachers.

    Example:
        >>> best = max(comparison.candidates, key=lambda c: c.metrics["top1"])  # doctest: +SKIP
        >>> best.name, best.ms_per_view                                     # doctest: +SKIP
        ('timm:a + timm:b', 3.2)
    """

    images: int
    samples: int
    labelled: int
    device: str
    candidates: Sequence[Candidate]
    pairs: Sequence[Pair]

    def to_json(self) -> dict[str, Any]:
        """Return it as what `json.dump` takes; NaN becomes None."""
        return _without_nan(asdict(self))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
