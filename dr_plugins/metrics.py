"""Classification metrics that the frameworks' training loops do not provide."""

from __future__ import annotations

import torch

__all__ = ["expected_calibration_error"]


def expected_calibration_error(probs: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy, over confidence bins of equal width.

    Args:
        probs: Class probabilities ``[N, C]``.
        labels: Class ids ``[N]``.
        bins: Number of bins over ``(0, 1]``.

    Returns:
        Expected calibration error within ``[0, 1]`` (Guo et al., 2017, equation 3).

    Raises:
        ValueError: There are no samples, or the shapes do not fit.

    Example:
        >>> expected_calibration_error(torch.tensor([[0.75, 0.25]]), torch.tensor([0]))
        0.25
    """
    if probs.ndim != 2 or labels.shape != probs.shape[:1] or not len(probs):
        raise ValueError(
            f"probs of shape {tuple(probs.shape)} and labels of shape {tuple(labels.shape)}; "
            f"expected [N, C] and [N] with N of at least 1"
        )
    confidence, predicted = probs.max(dim=-1)
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = (predicted == labels).double() - confidence.double()
    sums = torch.zeros(bins, dtype=torch.double, device=probs.device).index_add_(0, bin_of, gap)
    return sums.abs().sum().item() / len(probs)
