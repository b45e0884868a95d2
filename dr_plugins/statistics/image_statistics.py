"""Numbers about every image of a shard set, and what they say in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from dr_plugins.statistics.numbers import NUMBERS

TOP = 5


class Confusion(NamedTuple):
    """How often the teacher's top class was which, for images of which label: a sparse matrix.

    Attributes:
        labels: int32 ``[M]``, sorted.
        classes: int32 ``[M]``, the teacher's top class; sorted for each label.
        counts: int64 ``[M]``, views, at least 1.

    Example:
        >>> Confusion.of(np.array([0, 1, 1]), np.array([0, 0, 0])).counts
        array([1, 2])
    """

    labels: np.ndarray
    classes: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(
        cls, labels: np.ndarray, classes: np.ndarray, counts: np.ndarray | None = None
    ) -> Confusion:
        """Count equal pairs, each as often as `counts` says."""
        pairs = labels.astype(np.int64) << 32 | classes
        if counts is None:
            found, totals = np.unique(pairs, return_counts=True)
        else:
            found, places = np.unique(pairs, return_inverse=True)
            totals = np.zeros(len(found), np.int64)
            np.add.at(totals, places, counts)
        return cls((found >> 32).astype(np.int32), found.astype(np.int32), totals)

    @classmethod
    def joined(cls, parts: Sequence[Confusion]) -> Confusion:
        """Add several matrices."""
        if not parts:
            return cls(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64))
        return cls.of(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True)
class ImageStatistics:
    """What a teacher answered to each of N images, in the order of `ShardSet.keys`.

    Views that mix in another image are answers to both. They count only for an image all of whose
    views are mixed, as it may happen with mixup and CutMix: its averages then contain its partners,
    and its `agreement` is the share of mixed views whose top class is its own label.

    Attributes:
        label: int32 ``[N]``, the image's class when the set was made, -1 if unknown.
        confidence: float32 ``[N]``, mean over views of the largest probability.
        entropy: float32 ``[N]``, of the answer averaged over views, in nats.
        spread: float32 ``[N]``, mean over views of KL(answer || average), in nats: how much the
            answers differ.
        agreement: float32 ``[N]``, share of views whose top class is the label; NaN without label.
        label_prob: float32 ``[N]``, of the label in the average; NaN without label.
        mixed: bool ``[N]``, whether all views of the image are mixed.
        top_classes: int32 ``[N, 5]``, of the average, most probable first; -1 where no view lists
            so many.
        top_probs: float32 ``[N, 5]``, their probabilities.
        confusion: Label against the top class of each view.

    Example:
        >>> statistics = open_statistics(ShardSet("imagenet-plus"))         # doctest: +SKIP
        >>> shards.keys[int(statistics.label_prob.argmin())]                # doctest: +SKIP
        'n03642806/n03642806_5867.JPEG'
    """

    label: np.ndarray
    confidence: np.ndarray
    entropy: np.ndarray
    spread: np.ndarray
    agreement: np.ndarray
    label_prob: np.ndarray
    mixed: np.ndarray
    top_classes: np.ndarray
    top_probs: np.ndarray
    confusion: Confusion

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def joined(cls, parts: Sequence[ImageStatistics]) -> ImageStatistics:
        """Return the statistics of consecutive images as one."""
        columns = {name: [part.columns()[name] for part in parts] for name in COLUMNS}
        return cls(
            **{
                name: np.concatenate([np.zeros((0, *shape), dtype), *columns[name]])
                for name, (dtype, shape) in COLUMNS.items()
            },
            confusion=Confusion.joined([part.confusion for part in parts]),
        )

    def columns(self) -> dict[str, np.ndarray]:
        """Return the arrays with one entry per image, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "confusion"}

    def summary(self, pairs: int = 10) -> dict[str, Any]:
        """Return means over images, and the pairs of classes that are confused most.

        Args:
            pairs: How many pairs.

        Returns:
            ``images``, ``labelled``, ``mixed`` (numbers of images); ``confidence``, ``entropy``,
            ``spread``, ``agreement``, ``label_prob`` (means, None where there are no values);
            ``confused``, the pairs of classes with most views: ``label`` and ``answer`` (class
            numbers), ``views``, and ``share`` of the label's views.
        """
        return {
            "images": len(self),
            "labelled": int((self.label >= 0).sum()),
            "mixed": int(self.mixed.sum()),
            **{name: _mean(getattr(self, name)) for name in NUMBERS},
            "confused": list(self._confused(pairs)),
        }

    def _confused(self, count: int) -> Iterator[dict[str, Any]]:
        labels, classes, counts = self.confusion
        totals = np.bincount(labels, counts, int(labels.max(initial=-1)) + 1)
        wrong = np.flatnonzero(labels != classes)
        for place in wrong[(-counts[wrong]).argsort(kind="stable")][:count].tolist():
            label, views = int(labels[place]), int(counts[place])
            share = float(views / totals[label])
            yield {"label": label, "answer": int(classes[place]), "views": views, "share": share}


COLUMNS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "label": (np.int32, ()),
    "confidence": (np.float32, ()),
    "entropy": (np.float32, ()),
    "spread": (np.float32, ()),
    "agreement": (np.float32, ()),
    "label_prob": (np.float32, ()),
    "mixed": (np.bool_, ()),
    "top_classes": (np.int32, (TOP,)),
    "top_probs": (np.float32, (TOP,)),
}
"""Type and shape of the columns, for each image."""


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean(dtype=np.float64)) if len(known) else None
