"""Bootstrap intervals of metrics, and of the differences between models on the same images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dr_plugins.metrics import ImageScores
from dr_plugins.metrics.calibration import adaptive_bins, equal_width_bins, shared

_BINS = 15
_RESAMPLES, _CHUNK = 1000, 100
_COVERED = (2.5, 97.5)  # percent
_SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval (basic bootstrap, Davison and Hinkley, 1997, section 5.2).

    Attributes:
        value: On all images.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Linear:
    """A metric that follows from means over images: the sum of their absolute values.

    Accuracy has one column. A calibration error has one for each bin, with the images' differences
    of accuracy and confidence; the bins stay those of all images.

    Attributes:
        columns: ``[N, K]``.
    """

    columns: np.ndarray

    def of(self, means: np.ndarray) -> np.ndarray:
        """The metric of each row of means ``[R, K]``."""
        total: np.ndarray = np.abs(means).sum(axis=1)
        return total


def linear_metrics(scores: ImageScores) -> dict[str, Linear]:
    """The metrics of `ImageScores.metrics` in this form, without those that are not defined."""
    confidence = scores.confidence
    found = {
        name: Linear(values.numpy()[:, None])
        for name, values in scores.columns().items()
        if name != "confidence" and not bool(values.isnan().any())
    }
    widths = equal_width_bins(confidence, _BINS)
    found["ece"] = _gaps(scores.top1 - confidence, widths)
    accuracy = shared(confidence, scores.top1)
    found["adaptive_ece"] = _gaps(accuracy - confidence, adaptive_bins(confidence, _BINS))
    return found


def _gaps(difference: torch.Tensor, bin_of: torch.Tensor) -> Linear:
    columns = torch.zeros(len(difference), _BINS, dtype=torch.double)
    columns.scatter_(1, bin_of[:, None], difference[:, None])
    return Linear(columns.numpy())


def intervals(
    metrics: Sequence[Mapping[str, Linear]],
) -> tuple[list[dict[str, Estimate]], list[dict[str, Estimate]]]:
    """Resample the images, the same ones for every model.

    Args:
        metrics: Of each model, on the same images in the same order.

    Returns:
        The metrics of each model, and the differences of each to the first.
    """
    count = len(next(iter(metrics[0].values())).columns)
    columns = np.concatenate([each.columns for model in metrics for each in model.values()], axis=1)
    whole = columns.mean(axis=0, keepdims=True)
    means = np.concatenate([weights @ columns for weights in _weights(count)])
    values, resampled = _split(whole, metrics), _split(means, metrics)
    own = [
        {name: _estimate(value[name], draws[name]) for name in value}
        for value, draws in zip(values, resampled, strict=True)
    ]
    differences = [
        {
            name: _estimate(value[name] - values[0][name], draws[name] - resampled[0][name])
            for name in value
            if name in values[0]
        }
        for value, draws in zip(values, resampled, strict=True)
    ]
    return own, differences


def _weights(count: int) -> Iterator[np.ndarray]:
    """How often each image is drawn, as a share of the draws ``[_CHUNK, N]``."""
    rng = np.random.default_rng(_SEED)
    for _ in range(_RESAMPLES // _CHUNK):
        draws = [
            np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(_CHUNK)
        ]
        yield np.stack(draws) / count


def _split(
    means: np.ndarray, metrics: Sequence[Mapping[str, Linear]]
) -> list[dict[str, np.ndarray]]:
    found, start = [], 0
    for model in metrics:
        values = {}
        for name, metric in model.items():
            width = metric.columns.shape[1]
            values[name] = metric.of(means[:, start : start + width])
            start += width
        found.append(values)
    return found


def _estimate(value: np.ndarray, draws: np.ndarray) -> Estimate:
    low, high = np.percentile(draws, _COVERED)
    # Reflected, because the resampled calibration error is larger than the original one.
    return Estimate(value.item(), 2 * value.item() - high.item(), 2 * value.item() - low.item())
