"""How far a classifier's confidence is from its accuracy.

torchmetrics bins confidences as well, but puts those of exactly 1 into a separate bin: for a
classifier that is often certain, its calibration error is not that of the paper.
"""

from __future__ import annotations

import torch


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
    confidence, correct = _top_class(probs, labels)
    return gap(confidence, correct, equal_width_bins(confidence, bins))


def adaptive_calibration_error(probs: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy, over bins of equally many images.

    Most images of a good classifier are in the last bins of equal width; here all bins count alike.

    Args:
        probs: Class probabilities ``[N, C]``.
        labels: Class ids ``[N]``.
        bins: Number of bins; with fewer images, each has its own.

    Returns:
        Adaptive calibration error of the top class within ``[0, 1]`` (AdaECE in Mukhoti et al.,
        2020, after Nixon et al., 2019). Images of equal confidence share their accuracy, so the
        order of the images does not matter.

    Raises:
        ValueError: There are no samples, or the shapes do not fit.

    Example:
        >>> probs = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
        >>> adaptive_calibration_error(probs, torch.tensor([0, 1]), bins=2)
        0.375
    """
    confidence, correct = _top_class(probs, labels)
    return gap(confidence, shared(confidence, correct), adaptive_bins(confidence, bins))


def equal_width_bins(confidence: torch.Tensor, bins: int) -> torch.Tensor:
    """Bin ``[N]`` of each confidence: bin b is ``(b / bins, (b + 1) / bins]``."""
    return (confidence * bins).ceil().long().clamp(1, bins) - 1


def adaptive_bins(confidence: torch.Tensor, bins: int) -> torch.Tensor:
    """Bin ``[N]`` of each confidence: all bins have equally many, the first ones one more."""
    count = len(confidence)
    bins = min(bins, count)
    bin_of = torch.empty(count, dtype=torch.long, device=confidence.device)
    parts = torch.tensor_split(confidence.argsort(stable=True), bins)
    for number, part in enumerate(parts):
        bin_of[part] = number
    return bin_of


def shared(confidence: torch.Tensor, correct: torch.Tensor) -> torch.Tensor:
    """The mean of `correct` over the images of the same confidence ``[N]``."""
    _, group, sizes = confidence.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(sizes), dtype=torch.double, device=confidence.device)
    return (sums.index_add_(0, group, correct.double()) / sizes)[group]


def gap(confidence: torch.Tensor, correct: torch.Tensor, bin_of: torch.Tensor) -> float:
    """The mean over the images of their bin's distance between confidence and accuracy."""
    difference = correct.double() - confidence.double()
    sums = torch.zeros(int(bin_of.max()) + 1, dtype=torch.double, device=confidence.device)
    return sums.index_add_(0, bin_of, difference).abs().sum().item() / len(confidence)


def _top_class(probs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if probs.ndim != 2 or labels.shape != probs.shape[:1] or not len(probs):
        raise ValueError(
            f"probs of shape {tuple(probs.shape)} and labels of shape {tuple(labels.shape)}; "
            f"expected [N, C] and [N] with N of at least 1"
        )
    confidence, predicted = probs.max(dim=-1)
    return confidence, predicted == labels
