"""The operations of RandAugment, one object each, with the magnitudes of torchvision."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dr_plugins.transforms.base import AnyImage, Size
from dr_plugins.transforms.kernels import affine, kernels_for


@dataclass(frozen=True)
class Operation:
    """One operation on an image, at one of several strengths.

    The unit of a magnitude depends on the operation: slope (ShearX, ShearY), pixels (TranslateX,
    TranslateY), degrees (Rotate), distance of the enhancement factor from 1 (Brightness, Color,
    Contrast, Sharpness), bits kept (Posterize), threshold (Solarize); 0 for the others.

    Attributes:
        name: torchvision's name.
        kernel: From (backend, image, signed magnitude) to the new image; see `kernels_for`.
        levels: From (number of levels, (height, width)) to the unsigned magnitude of each level.
        signed: Whether the magnitude may be negative.
        matrix: For operations that move pixels: from (signed magnitude, height, width) to the
            affine matrix from output to input, by which Pillow resamples.

    Example:
        >>> rotate = next(op for op in OPERATIONS if op.name == "Rotate")
        >>> round(rotate.magnitude(9, 31, (224, 224)), 4)
        9.0
    """

    name: str
    kernel: Callable[[ModuleType, Any, float], Any]
    levels: Callable[[int, Size], Tensor]
    signed: bool = False
    matrix: Callable[[float, int, int], affine.Matrix] | None = None

    def magnitude(self, level: int, num_levels: int, size: Size) -> float:
        """Return the unsigned magnitude of a level: the float32 value that torchvision uses.

        Args:
            level: Strength, within ``[0, num_levels)``.
            num_levels: Number of levels, at least 2.
            size: (height, width) of the image in pixels.

        Raises:
            ValueError: A level is out of range.
        """
        if num_levels < 2 or not 0 <= level < num_levels:
            raise ValueError(
                f"level {level} of {num_levels} levels, expected 0 <= level < num_levels and "
                "num_levels >= 2"
            )
        return _magnitudes(self, num_levels, size)[level]

    def apply(self, image: AnyImage, magnitude: float) -> AnyImage:
        """Return the image after the operation.

        Args:
            image: RGB PIL image or uint8 tensor ``[..., 3, height, width]``; it is not modified.
            magnitude: Signed magnitude.

        Raises:
            TypeError: Neither kind of image.
        """
        changed: AnyImage = self.kernel(kernels_for(image), image, magnitude)
        return changed

    def forward(self, magnitude: float, size: Size) -> np.ndarray:
        """Return the affine matrix from input to output, see `Transform.matrices`.

        Args:
            magnitude: Signed magnitude.
            size: (height, width) of the image in pixels.
        """
        if self.matrix is None:
            return np.eye(3)
        backward = np.array([*self.matrix(magnitude, *size), 0, 0, 1]).reshape(3, 3)
        return np.linalg.inv(backward)


@functools.lru_cache(maxsize=1024)
def _magnitudes(operation: Operation, num_levels: int, size: Size) -> tuple[float, ...]:
    return tuple(operation.levels(num_levels, size).tolist())


def _linear(start: float, end: float) -> Callable[[int, Size], Tensor]:
    return lambda num_levels, size: _linspace(start, end, num_levels)


def _part_of_side(axis: int) -> Callable[[int, Size], Tensor]:
    return lambda num_levels, size: _linspace(0.0, 150.0 / 331.0 * size[axis], num_levels)


def _linspace(start: float, end: float, num_levels: int) -> Tensor:
    return torch.linspace(start, end, num_levels, dtype=torch.float32, device="cpu")


def _bits_kept(num_levels: int, size: Size) -> Tensor:
    dropped = torch.arange(num_levels, device="cpu") / ((num_levels - 1) / 4)
    return (8 - dropped.round().int()).double()


_NOTHING = _linear(0.0, 0.0)
_SHEAR = _linear(0.0, 0.3)
_ENHANCEMENT = _linear(0.0, 0.9)

OPERATIONS: tuple[Operation, ...] = (
    Operation("Identity", lambda k, image, m: image, _NOTHING),
    Operation(
        "ShearX",
        lambda k, image, m: k.shear_x(image, m),
        _SHEAR,
        signed=True,
        matrix=lambda m, height, width: affine.shear_x(m),
    ),
    Operation(
        "ShearY",
        lambda k, image, m: k.shear_y(image, m),
        _SHEAR,
        signed=True,
        matrix=lambda m, height, width: affine.shear_y(m),
    ),
    Operation(
        "TranslateX",
        lambda k, image, m: k.translate_x(image, int(m)),
        _part_of_side(1),
        signed=True,
        matrix=lambda m, height, width: affine.translation(int(m), 0),
    ),
    Operation(
        "TranslateY",
        lambda k, image, m: k.translate_y(image, int(m)),
        _part_of_side(0),
        signed=True,
        matrix=lambda m, height, width: affine.translation(0, int(m)),
    ),
    Operation(
        "Rotate",
        lambda k, image, m: k.rotate(image, m),
        _linear(0.0, 30.0),
        signed=True,
        matrix=affine.rotation,
    ),
    Operation(
        "Brightness", lambda k, image, m: k.adjust_brightness(image, 1 + m), _ENHANCEMENT, True
    ),
    Operation("Color", lambda k, image, m: k.adjust_saturation(image, 1 + m), _ENHANCEMENT, True),
    Operation("Contrast", lambda k, image, m: k.adjust_contrast(image, 1 + m), _ENHANCEMENT, True),
    Operation(
        "Sharpness", lambda k, image, m: k.adjust_sharpness(image, 1 + m), _ENHANCEMENT, True
    ),
    Operation("Posterize", lambda k, image, m: k.posterize(image, int(m)), _bits_kept),
    Operation("Solarize", lambda k, image, m: k.solarize(image, m), _linear(255.0, 0.0)),
    Operation("AutoContrast", lambda k, image, m: k.autocontrast(image), _NOTHING),
    Operation("Equalize", lambda k, image, m: k.equalize(image), _NOTHING),
)
"""By number. The numbers are part of the record format: append new ones, never change the order.
A policy lists the operations that it draws from, so they are part of a set's identity."""


def operation_names() -> tuple[str, ...]:
    """Return the names of all operations, in the order of their numbers."""
    return tuple(operation.name for operation in OPERATIONS)
