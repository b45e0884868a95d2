"""Temperature scaling (Guo et al., 2017): one number that calibrates a trained classifier."""

from __future__ import annotations

import math

import torch

from dr_plugins.metrics.image_scores import row_chunks

_LEAST, _MOST = 0.01, 100.0
_STEPS = 100


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the temperature T for which the softmax of ``logits / T`` fits the labels best.

    It minimises the negative log-likelihood (Guo et al., 2017, section 4.2), which is convex in
    1 / T, by Newton's method within a bracket. Fit it on other images than those that it is used
    for; accuracy does not change.

    Args:
        logits: ``[N, C]``.
        labels: Class ids ``[N]``, or bool ``[N, C]`` with every right label, at least one each.

    Returns:
        A temperature within [0.01, 100]; at an end if there is no minimum between them, for
        example because every image is right.

    Raises:
        ValueError: A logit is not finite, or there are no images.

    Example:
        >>> logits = torch.tensor([[4.0, 0.0]]).repeat(4, 1)      # 98 % confident, 75 % right
        >>> round(fit_temperature(logits, torch.tensor([0, 0, 0, 1])), 3)
        3.641
    """
    if not len(logits) or not bool(logits.isfinite().all()):
        raise ValueError(
            "logits of no images, or with values that are not finite; expected numbers"
        )
    low, high = 1 / _MOST, 1 / _LEAST
    scale = 1.0
    for _ in range(_STEPS):
        slope, curvature = _derivatives(logits, labels, scale)
        if slope > 0:
            high = scale
        else:
            low = scale
        step = scale - slope / curvature if curvature > 0 else math.nan
        following = step if low < step < high else math.sqrt(low * high)
        if abs(following - scale) <= 1e-10 * scale:
            break
        scale = following
    return 1 / scale


def _derivatives(logits: torch.Tensor, labels: torch.Tensor, scale: float) -> tuple[float, float]:
    """First and second derivative of the summed loss with respect to ``scale = 1 / T``."""
    slope = curvature = 0.0
    for rows, right in row_chunks(logits, labels):
        mean, variance = _moments(rows, scale)
        if right.dtype == torch.bool:
            own, spread = _moments(rows.masked_fill(~right, float("-inf")), scale)
        else:
            own, spread = rows.gather(1, right[:, None])[:, 0], torch.zeros_like(mean)
        slope += (mean - own).sum().item()
        curvature += (variance - spread).sum().item()
    return slope, curvature


def _moments(logits: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the logits under the probabilities that they give."""
    probs = (logits * scale).softmax(dim=1)
    values = logits.masked_fill(logits.isinf(), 0.0)
    mean = (probs * values).sum(dim=1)
    variance = (probs * (values - mean[:, None]).square()).sum(dim=1)
    return mean, variance
