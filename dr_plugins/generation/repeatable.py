"""Whether a teacher answers the same views the same way each time."""

from __future__ import annotations

import torch

from dr_plugins.errors import TeacherError

# Mean difference of the stored log-probabilities, close to that of the logits. CPUs differ by up to
# 5e-6 with other numbers of threads and batch sizes (ResNet, ViT, ConvNeXt, MobileNet, as stored);
# logits that are scaled by 1.001 differ by 7e-4 to 5e-3. GPUs may compute with TF32.
_TOLERANCES = {("cpu", "float32"): 2e-4, ("cuda", "float32"): 0.05}
_REDUCED_TOLERANCE = 0.15
_LEAST_PROB = 2.0**-14  # float16 rounds smaller ones coarsely, or to 0


def tolerance(device: str, precision: str) -> float:
    """Return by how much answers to the same views may differ; see `difference`."""
    return _TOLERANCES.get((device, precision), _REDUCED_TOLERANCE)


def difference(probs: torch.Tensor, others: torch.Tensor) -> float:
    """Return the mean difference of the logarithms of two answers of equal shape."""
    logarithms = [p.float().clamp(min=_LEAST_PROB).log() for p in (probs, others)]
    return float((logarithms[0] - logarithms[1]).abs().mean())


def check_repeatable(probs: torch.Tensor, again: torch.Tensor, limit: float) -> None:
    """Compare two answers of a teacher to the same views.

    Raises:
        TeacherError: They differ by more than `limit`.
    """
    if probs.shape == again.shape and not difference(probs, again) <= limit:
        raise TeacherError(
            "the teacher answers the same views differently each time; disable its randomness, "
            "such as dropout"
        )
