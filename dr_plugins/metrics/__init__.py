"""How good a classifier's answers are, image by image and as a whole.

Example:
    >>> import torch
    >>> scores = ImageScores.of(torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    >>> scores.metrics()["top1"]
    0.5
"""

from dr_plugins.metrics.calibration import adaptive_calibration_error, expected_calibration_error
from dr_plugins.metrics.image_scores import ImageScores
from dr_plugins.metrics.temperature import fit_temperature

__all__ = [
    "ImageScores",
    "adaptive_calibration_error",
    "expected_calibration_error",
    "fit_temperature",
]
