"""Base classes of transforms, which sample parameters (plain data) and apply them separately."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from PIL import Image

from dr_plugins.records import Field

AnyImage = Image.Image | torch.Tensor
Size = tuple[int, int]
Params = Any

_MOST = (1 << 16) - 1  # coordinates are stored as uint16


class Transform(ABC):
    """A random image operation.

    Subclasses are frozen dataclasses whose attributes are the hyper-parameters. `sample` draws
    parameters; `apply` is a pure function of image and parameters, for RGB PIL images and for uint8
    tensors ``[..., 3, H, W]``. Sizes are (height, width) in pixels.
    """

    name: ClassVar[str]
    decides_size: ClassVar[bool] = False
    """Whether the result has the same size for every input."""

    @property
    def field(self) -> Field | None:
        """The record field that stores the parameters; None if there are none."""
        return None

    def sample(self, rng: np.random.Generator, size: Size) -> Params:
        """Draw parameters for an image of `size`: an int, or a tuple of ints, as in `field`."""
        return None

    def output_size(self, size: Size) -> Size:
        """Return the size of the result for an input of `size`."""
        return size

    @abstractmethod
    def apply(self, image: AnyImage, params: Params) -> AnyImage:
        """Return the transformed image; never modifies `image`."""

    def describe(self, params: Params) -> Sequence[str]:
        """Return what `apply` does, in a few words each; nothing if `matrices` say it all."""
        return ()

    def apply_as(self, image: torch.Tensor, backend: str) -> torch.Tensor:
        """Return what `apply` gives in a backend, computed on the tensor's device.

        Only for transforms without parameters before the crop. This computes the same in both
        backends; what resamples must override it.
        """
        return cast(torch.Tensor, self.apply(image, None))

    @abstractmethod
    def matrices(self, params: Params, size: Size) -> Sequence[np.ndarray]:
        """Return how `apply` moves pixels, for points, boxes and masks to follow.

        Args:
            params: As for `apply`.
            size: (height, width) of the input.

        Returns:
            For each resampling, in order, the affine matrix from its input to its output, float64
            ``[3, 3]`` for columns (x, y, 1) in pixels from the top left corner; pixel centres are
            at halves. All outputs have `output_size`. Empty if no pixel moves.
        """


class CropTransform(Transform):
    """A transform that cuts views of one size out of images of any size."""

    @abstractmethod
    def check_fit(self, params: Params, size: Size) -> None:
        """Raise `ValueError` unless the crop lies within an image of `size`."""

    @abstractmethod
    def crop_batch(
        self,
        images: Sequence[torch.Tensor],
        which: Sequence[int],
        params: np.ndarray,
        backend: str,
    ) -> torch.Tensor:
        """Return the views, bit-identical to applying `apply` to each image.

        Args:
            images: uint8 ``[3, height, width]``, all on the same device; never modified.
            which: Index of the image that each view is cut from, ``[B]``.
            params: One entry per view; on the CPU.
            backend: Backend whose resizing is reproduced, ``"pil"`` or ``"tensor"``.

        Returns:
            uint8 ``[B, 3, H, W]`` on the same device.
        """


class ViewTransform(Transform):
    """A transform of equally sized views, which also works on batches."""

    @abstractmethod
    def describe(self, params: Params) -> Sequence[str]:
        """Return what `apply` does, in a few words each; nothing if it changes nothing."""

    @abstractmethod
    def apply_batch(self, images: torch.Tensor, params: np.ndarray) -> torch.Tensor:
        """Return the transformed images, bit-identical to applying `apply` to each image.

        Args:
            images: uint8 ``[B, 3, H, W]`` on any device; never modified.
            params: One entry per image; on the CPU, because they control what is computed.

        Returns:
            uint8 ``[B, 3, H, W]`` on the same device.
        """


def affine_matrix(x: tuple[float, float], y: tuple[float, float]) -> np.ndarray:
    """Return the matrix of ``factor * coordinate + offset``, given (factor, offset) of each axis.

    Example:
        >>> affine_matrix((2, 5), (1, 0)) @ (10, 20, 1)
        array([25., 20.,  1.])
    """
    return np.array([[x[0], 0, x[1]], [0, y[0], y[1]], [0, 0, 1]], float)


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raise `ValueError` unless a hyper-parameter is an integer from `least` to 65,535."""
    if type(value) is not int or value < least:
        raise ValueError(f"{name} is {value!r}, expected an integer of at least {least}")
    if value > _MOST:
        raise ValueError(f"{name} is {value}, expected at most {_MOST}, the largest that is stored")


def check_probability(value: float) -> None:
    """Raise `ValueError` unless the hyper-parameter ``p`` lies within 0 and 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"p is {value}, expected 0 <= p <= 1")


def check_range(name: str, values: tuple[float, float]) -> None:
    """Raise `ValueError` unless a hyper-parameter is a range of positive numbers."""
    if len(values) != 2 or not 0 < values[0] <= values[1] < float("inf"):
        raise ValueError(f"{name} is {values}, expected (low, high) with 0 < low <= high")
