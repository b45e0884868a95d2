"""Random erasing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from dr_plugins.records import Field
from dr_plugins.transforms.base import (
    AnyImage,
    Params,
    Size,
    ViewTransform,
    check_probability,
    check_range,
)
from dr_plugins.transforms.kernels import kernels_for
from dr_plugins.transforms.kernels.batch import box_mask

_ATTEMPTS = 10
_NOTHING = (0, 0, 0, 0)


@dataclass(frozen=True)
class RandomErasing(ViewTransform):
    """Blacken a random box with probability `p` (Zhong et al., 2020).

    Parameters are (top, left, height, width); all zero if nothing is erased.

    Attributes:
        p: Probability of erasing.
        scale: Range of the box's share of the image area.
        ratio: Range of the box's aspect ratio, height / width, sampled log-uniformly.
    """

    name: ClassVar[str] = "random_erase"
    p: float = 0.25
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)

    def __post_init__(self) -> None:
        check_probability(self.p)
        check_range("scale", self.scale)
        check_range("ratio", self.ratio)

    @property
    def field(self) -> Field:
        """``erase``: four uint16."""
        return Field("erase", "<u2", (4,))

    def sample(self, rng: np.random.Generator, size: Size) -> Params:
        """Draw a box; no box if ten attempts do not fit."""
        if rng.random() >= self.p:
            return _NOTHING
        height, width = size
        low, high = (math.log(r) for r in self.ratio)
        for _ in range(_ATTEMPTS):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(low, high))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < h < height and 0 < w < width:
                top, left = rng.integers(0, (height - h + 1, width - w + 1)).tolist()
                return top, left, h, w
        return _NOTHING

    def apply(self, image: AnyImage, params: Params) -> AnyImage:
        """Return the image with the box ``params`` black."""
        return kernels_for(image).erase(image, *params) if params[2] else image

    def matrices(self, params: Params, size: Size) -> Sequence[np.ndarray]:
        """Return nothing: no pixel moves."""
        return ()

    def describe(self, params: Params) -> Sequence[str]:
        """Return whether a box is erased."""
        return ("erased",) if params[2] else ()

    def apply_batch(self, images: torch.Tensor, params: np.ndarray) -> torch.Tensor:
        """Return the images with the boxes ``params``, ``[B, 4]``, black."""
        corner, sides = params[:, :2], params[:, 2:]
        boxes = np.concatenate([corner, corner + sides], 1)
        return images.masked_fill(box_mask(boxes, images), 0)
