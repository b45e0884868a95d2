"""What a transform is: sampling and applying kept apart, parameters as plain data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from dr_plugins.records import Field

__all__ = ["AnyImage", "Params", "Size", "Transform"]

AnyImage = Image.Image | torch.Tensor
Size = tuple[int, int]
Params = Any


class Transform(ABC):
    """A random image operation.

    Subclasses are frozen dataclasses whose attributes are the hyper-parameters. `sample` draws
    parameters, `apply` is a pure function of image and parameters; it works on an RGB PIL image and
    on a uint8 tensor ``[..., 3, H, W]`` alike. Sizes are (height, width) in pixels.
    """

    name: ClassVar[str]

    @property
    def field(self) -> Field | None:
        """Where the parameters are stored in a record; None if there are none."""
        return None

    def sample(self, rng: np.random.Generator, size: Size) -> Params:
        """Draw parameters for an image of `size`; an int, or a tuple of ints as `field` says."""
        return None

    def output_size(self, size: Size) -> Size:
        """Return the size of the result for an input of `size`."""
        return size

    @abstractmethod
    def apply(self, image: AnyImage, params: Params) -> AnyImage:
        """Return the transformed image; never modifies `image`."""
