"""The numbers of an image that commands and pages show, with their titles and meanings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple


def _one(num_classes: int) -> float:
    return 1.0


def _largest_entropy(num_classes: int) -> float:
    return math.log(max(num_classes, 2))


class Number(NamedTuple):
    """How a column of `ImageStatistics` is shown.

    Attributes:
        title: Its title.
        meaning: What it is, for one image.
        short: A title for narrow places.
        digits: Digits after the point; None for a share, which is shown in percent.
        most: From the number of classes to the largest value; None if there is none.
    """

    title: str
    meaning: str
    short: str | None = None
    digits: int | None = None
    most: Callable[[int], float] | None = _one


NUMBERS = {
    "confidence": Number("Confidence", "mean over views of the largest probability"),
    "entropy": Number(
        "Entropy",
        "of the answer averaged over views, in nats",
        digits=2,
        most=_largest_entropy,
    ),
    "spread": Number(
        "Spread",
        "mean KL divergence of the answers to single views from their average, in nats",
        digits=3,
        most=None,
    ),
    "agreement": Number("Agreement", "share of views whose top class is the label"),
    "label_prob": Number(
        "Label probability", "of the label, in the answer averaged over views", "Label"
    ),
}
"""By the name of the column; each is at least 0."""
