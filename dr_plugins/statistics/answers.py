"""A teacher's answers to the views of an image, and their average.

An answer lists k classes; the other classes share the rest equally, as in `SparseTargets`. So an
average over views has a probability for each class that some view lists, and one that all others
have. It is exact, and no answer is expanded to all classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dr_plugins.errors import FormatError
from dr_plugins.records import NO_PARTNER
from dr_plugins.shards.reader import ShardSet

_VALUES = 1 << 20  # listed probabilities, or classes of all images, at a time
_TINY = np.finfo(np.float32).tiny


class AverageAnswers(NamedTuple):
    """The teacher's answers to B images, averaged over views.

    Attributes:
        classes: int32 ``[B, W]``, the listed classes, most probable first, of equal ones the lower;
            -1 is padding.
        probs: float32 ``[B, W]``, their probabilities, 0 for padding. What is missing to 1 belongs
            in equal parts to the classes that are not listed.

    Example:
        >>> answers = average_answers(ShardSet("imagenet-plus"), [0, 1])    # doctest: +SKIP
        >>> answers.classes[:, 0], answers.probs[:, 0]                      # doctest: +SKIP
    """

    classes: np.ndarray
    probs: np.ndarray


def average_answers(shards: ShardSet, rows: Sequence[int] | np.ndarray) -> AverageAnswers:
    """Average the teacher's answers to some images over their views.

    Views that mix in another image count only where all views of an image do.

    Args:
        shards: The set.
        rows: Rows of the images, B in any order.

    Raises:
        IndexError: A row is out of range.
        FormatError: A record is damaged.

    Example:
        >>> classes, probs = average_answers(ShardSet("imagenet-plus"), [0])  # doctest: +SKIP
    """
    chosen, classes = np.asarray(rows, np.int64), shards.manifest.num_classes
    blocks = [ViewAnswers(r, classes).average() for r in read_answers(shards, chosen)]
    width = max((block.probs.shape[1] for block in blocks), default=0)
    found = AverageAnswers(
        np.full((len(chosen), width), -1, np.int32), np.zeros((len(chosen), width), np.float32)
    )
    done = 0
    for block in blocks:
        place = np.s_[done : done + len(block.probs), : block.probs.shape[1]]
        found.classes[place], found.probs[place] = block.classes, block.probs
        done += len(block.probs)
    return found


def read_answers(shards: ShardSet, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Read all records of some images, checked: arrays ``[block, S]``."""
    samples, step = shards.manifest.samples, block_size(shards)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        records = shards.read(block.repeat(samples), np.tile(np.arange(samples), len(block)))
        yield records.reshape(len(block), samples)


def block_size(shards: ShardSet) -> int:
    """Return how many images of a set fit into a block, for which memory is bounded."""
    manifest = shards.manifest
    return max(1, _VALUES // max(manifest.samples * manifest.topk, manifest.num_classes))


class Averages(NamedTuple):
    """Averages of B images, in double precision; see `AverageAnswers`.

    Attributes:
        classes: int32 ``[B, W]``.
        probs: float64 ``[B, W]``.
        others: float64 ``[B]``, the probability of each class that is not listed.
        entropy: float64 ``[B]``, in nats.
    """

    classes: np.ndarray
    probs: np.ndarray
    others: np.ndarray
    entropy: np.ndarray

    def of(self, labels: np.ndarray) -> np.ndarray:
        """Return the probability of each image's label, float64 ``[B]``; NaN for label -1."""
        hits = self.classes == labels[:, None]
        found = np.where(hits.any(1), (self.probs * hits).sum(1), self.others)
        return np.where(labels < 0, np.nan, found)


class ViewAnswers:
    """The answers to the views of B images.

    Args:
        records: Structured array ``[B, S]``.
        num_classes: Number of the teacher's classes, C.

    Attributes:
        top: int32 ``[B, S]``, the most probable class of each view.
        confidence: float32 ``[B, S]``, its probability.
        mixed: bool ``[B]``, whether all views of an image mix in another one.
        counted: bool ``[B, S]``, which views count: those that are not mixed, or all of `mixed`.

    Raises:
        FormatError: A record lists a class that does not exist.
    """

    def __init__(self, records: np.ndarray, num_classes: int) -> None:
        self._ids, self._num_classes = np.ascontiguousarray(records["ids"]), num_classes
        if self._ids.size and int(self._ids.max()) >= num_classes:
            raise FormatError(
                f"an answer lists class {self._ids.max()} of {num_classes}: the set was made by a "
                f"faulty writer"
            )
        self._probs, self._others = _smoothed(records["probs"].astype(np.float32), num_classes)
        self.top = self._ids[..., 0].astype(np.int32)
        self.confidence = self._probs[..., 0]
        is_whole = np.ones(records.shape, bool)
        if "partner" in (records.dtype.names or ()):
            is_whole = records["partner"] == NO_PARTNER
        self.mixed = np.logical_not(is_whole.any(1))
        self.counted = is_whole | self.mixed[:, None]
        self._weights = self.counted / self.counted.sum(1, keepdims=True)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of a value of each view over those that count, float64 ``[B]``."""
        return (values * self._weights).sum(1)

    def entropies(self) -> np.ndarray:
        """Return the entropy of each view's answer in nats, float32 ``[B, S]``."""
        unlisted = self._num_classes - self._probs.shape[-1]
        return -_x_log_x(self._probs).sum(-1) - unlisted * _x_log_x(self._others)

    def averages(self) -> Averages:
        """Return the averages over the views that count."""
        others = self.mean(self._others)
        above = (self._probs - self._others[..., None]) * self._weights[..., None]
        images, classes = len(self._ids), self._num_classes
        cells = self._ids + np.arange(images)[:, None, None] * classes
        sums = np.bincount(cells.ravel(), above.ravel(), images * classes)
        # A sum of zero is as good as a class that no view lists: it has the same probability.
        places = np.flatnonzero(sums)
        rows = places // classes
        counts = np.bincount(rows, minlength=images)
        slots = np.arange(len(places)) - (counts.cumsum() - counts).repeat(counts)
        width = int(counts.max(initial=0))
        listed = np.full((images, width), -1, np.int32)
        listed[rows, slots] = places - rows * classes
        probs = np.zeros((images, width))
        probs[rows, slots] = np.maximum(sums[places] + others[rows], 0)
        entropy = -_x_log_x(probs).sum(1) - (classes - counts) * _x_log_x(others)
        order = np.where(listed < 0, 1, -probs).argsort(1, kind="stable")
        return Averages(
            np.take_along_axis(listed, order, 1),
            np.take_along_axis(probs, order, 1),
            others,
            entropy,
        )

    def average(self) -> AverageAnswers:
        """Return the averages in single precision."""
        averages = self.averages()
        return AverageAnswers(averages.classes, averages.probs.astype(np.float32))


def _smoothed(probs: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities of the listed classes and of each other one; see `SparseTargets`."""
    total = probs.sum(-1)
    unlisted = num_classes - probs.shape[-1]
    is_full = (total > 1) | (unlisted == 0)
    others = np.where(is_full, 0, (1 - total) / max(unlisted, 1)).astype(np.float32)
    divisor = np.where(is_full & (total > 0), total, 1).astype(np.float32)
    return probs / divisor[..., None], others


def _x_log_x(x: np.ndarray) -> np.ndarray:
    return x * np.log(np.maximum(x, _TINY))
