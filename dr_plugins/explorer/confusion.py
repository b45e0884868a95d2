"""Which classes the teacher takes for which others."""

from __future__ import annotations

import numpy as np

from dr_plugins.statistics import Confusion, ImageStatistics

_PAIRS = 100
_MATRIX_CLASSES = 24  # more do not fit on a page


def confused_images(statistics: ImageStatistics) -> Confusion:
    """Count images by label and the most probable class of their average.

    So each count is the number of images that the page lists for these two classes;
    `ImageStatistics.confusion` counts views.
    """
    known = statistics.label >= 0
    return Confusion.of(statistics.label[known], statistics.top_classes[known, 0])


def worst_pairs(confusion: Confusion) -> list[tuple[int, int, int]]:
    """Return the most frequent (label, other class, images), most images first."""
    labels, classes, counts = confusion
    wrong = np.flatnonzero(labels != classes)
    first = wrong[np.argsort(-counts[wrong], kind="stable")[:_PAIRS]]
    return list(
        zip(labels[first].tolist(), classes[first].tolist(), counts[first].tolist(), strict=True)
    )


def worst_matrix(confusion: Confusion, num_classes: int) -> dict[str, list[int] | list[list[int]]]:
    """Return the counts ``[labels][classes]`` among the classes that are confused most."""
    labels, classes, counts = confusion
    wrong = np.where(labels != classes, counts, 0)
    confused = np.bincount(labels, wrong, num_classes) + np.bincount(classes, wrong, num_classes)
    chosen = np.sort(np.argsort(-confused, kind="stable")[:_MATRIX_CLASSES])
    place = np.full(num_classes, -1)
    place[chosen] = np.arange(len(chosen))
    rows, columns = place[labels], place[classes]
    inside = (rows >= 0) & (columns >= 0)
    matrix = np.zeros((len(chosen), len(chosen)), np.int64)
    matrix[rows[inside], columns[inside]] = counts[inside]
    return {"classes": chosen.tolist(), "counts": matrix.tolist()}
