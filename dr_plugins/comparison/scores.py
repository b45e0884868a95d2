"""What is kept of teachers' answers: a few numbers for each view."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import torch

from dr_plugins.metrics import ImageScores

_TINY = 1e-12  # for probabilities that were rounded to 0


@dataclass(frozen=True)
class ViewScores:
    """Answers to V views, on the CPU.

    Attributes:
        scores: Against the labels; those of views without a label mean nothing.
        top: int64 ``[V]``, the top class.
        entropy: float64 ``[V]``, in nats.
        spread: float64 ``[V]``, KL(view || mean over the image's views) in nats.
    """

    scores: ImageScores
    top: torch.Tensor
    entropy: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def of(cls, probs: torch.Tensor, labels: torch.Tensor, samples: int) -> ViewScores:
        """Score answers.

        Args:
            probs: Probabilities ``[V, C]``, those of an image's views one after the other.
            labels: ``[V]``, -1 if unknown.
            samples: Views of each image.
        """
        log_probs = probs.double().clamp(min=_TINY).log()
        entropy = -(log_probs.exp() * log_probs).sum(1)
        mean = log_probs.exp().reshape(-1, samples, probs.shape[1]).mean(1)
        cross = -(log_probs.exp() * mean.log().repeat_interleave(samples, 0)).sum(1)
        scores = ImageScores.of(log_probs, labels.clamp(min=0))
        scores = ImageScores(**{name: each.cpu() for name, each in scores.columns().items()})
        return cls(scores, probs.argmax(1).cpu(), entropy.cpu(), (cross - entropy).cpu())

    @classmethod
    def concatenated(cls, parts: Iterable[ViewScores]) -> ViewScores:
        """The scores of several batches of views; at least one."""
        parts = list(parts)
        scores = ImageScores.concatenated(part.scores for part in parts)
        names = [field.name for field in fields(cls) if field.name != "scores"]
        return cls(scores, *(torch.cat([getattr(p, name) for p in parts]) for name in names))

    def labelled(self, known: torch.Tensor) -> ImageScores:
        """The scores of the views for which `known`, bool ``[V]``, is true."""
        columns = self.scores.columns().items()
        return ImageScores(**{name: values[known] for name, values in columns})


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of independent values; NaN of fewer than two."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation, where equal values share their mean rank.

    Args:
        first: ``[N]``.
        second: ``[N]``.

    Returns:
        Within [-1, 1]; NaN if all values of one are equal.

    Example:
        >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0]))
        0.5
    """
    ranks = np.stack([_ranks(first), _ranks(second)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    (one, both), (_, other) = ranks @ ranks.T
    return float(both / math.sqrt(one * other)) if one and other else math.nan


def _ranks(values: np.ndarray) -> np.ndarray:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return mean_ranks
