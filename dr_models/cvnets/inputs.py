"""The input convention of a network: range, mean, standard deviation and size of its images."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

from dr_models.cvnets.model import CVNetsModel
from dr_plugins.errors import CheckpointError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

INPUT_FIELDS = ("mean", "std", "input_size", "crop_pct")


@dataclass(frozen=True)
class InputConvention:
    """The images that a network expects: RGB, ``(image / 255 - mean) / std``.

    Attributes:
        mean: Mean of the three channels, for images from 0 to 1.
        std: Standard deviation of the three channels, above 0, up to 1.
        input_size: Height and width in pixels.
        interpolation: ``bilinear`` or ``bicubic``, as in timm.
        crop_pct: Share of the resized shorter side that the center crop keeps, above 0, up to 1.

    Example:
        >>> InputConvention().for_range(255)
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    input_size: tuple[int, int] = (224, 224)
    interpolation: str = "bilinear"
    crop_pct: float = 0.875

    def __post_init__(self) -> None:
        outside = not all(-1 <= value <= 1 for value in (*self.mean, *self.std))  # NaN too
        if len(self.mean) != 3 or len(self.std) != 3 or outside or min(self.std) <= 0:
            raise CheckpointError(
                f"mean {self.mean} and std {self.std}: expected three numbers each, for red, green "
                f"and blue between 0 and 1, for images from 0 to 1, with std above 0"
            )

    def for_range(self, top: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation for images from 0 to `top`, such as 255."""
        # In floating point, 0.485 * 255 is not exactly the usual 123.675.
        return (
            tuple(round(value * top, 6) for value in self.mean),
            tuple(round(value * top, 6) for value in self.std),
        )

    def to_metadata(self) -> dict[str, str]:
        """Return the fields as metadata of safetensors: strings, with numbers in JSON."""
        return {
            name: json.dumps(value) if name in INPUT_FIELDS else value
            for name, value in asdict(self).items()
        }


def cvnets_convention(model: CVNetsModel) -> InputConvention:
    """Return the input convention of a published model: RGB from 0 to 1, not normalized.

    `crop_pct` is rounded down, so that timm's floor of ``size / crop_pct`` is exactly the length
    that CVNets resizes to.
    """
    crop = math.floor(model.size / model.resize * 1000) / 1000
    return InputConvention((0.0,) * 3, (1.0,) * 3, (model.size,) * 2, "bilinear", crop)
