"""The 14 operations of RandAugment and their magnitudes, as torchvision defines them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from dr_plugins.transforms.base import AnyImage
from dr_plugins.transforms.kernels import kernels_for

__all__ = ["OPERATIONS", "SIGNED", "apply_operation", "magnitude"]

OPERATIONS: tuple[str, ...] = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
"""Names by operation index. The order is part of the record format: never change it."""

SIGNED: frozenset[int] = frozenset(range(1, 10))
"""Indices of the operations whose magnitude may be negative."""

_LARGEST_SHEAR = 0.3
_LARGEST_TRANSLATION = 150.0 / 331.0  # of the side
_LARGEST_ROTATION = 30.0  # degrees
_LARGEST_ENHANCEMENT = 0.9
_MOST_BITS_DROPPED = 4

_Apply = Callable[[ModuleType, Any, float], Any]
_APPLY: tuple[_Apply, ...] = (
    lambda kernels, image, magnitude: image,
    lambda kernels, image, magnitude: kernels.shear_x(image, magnitude),
    lambda kernels, image, magnitude: kernels.shear_y(image, magnitude),
    lambda kernels, image, magnitude: kernels.translate_x(image, int(magnitude)),
    lambda kernels, image, magnitude: kernels.translate_y(image, int(magnitude)),
    lambda kernels, image, magnitude: kernels.rotate(image, magnitude),
    lambda kernels, image, magnitude: kernels.adjust_brightness(image, 1.0 + magnitude),
    lambda kernels, image, magnitude: kernels.adjust_saturation(image, 1.0 + magnitude),
    lambda kernels, image, magnitude: kernels.adjust_contrast(image, 1.0 + magnitude),
    lambda kernels, image, magnitude: kernels.adjust_sharpness(image, 1.0 + magnitude),
    lambda kernels, image, magnitude: kernels.posterize(image, int(magnitude)),
    lambda kernels, image, magnitude: kernels.solarize(image, magnitude),
    lambda kernels, image, magnitude: kernels.autocontrast(image),
    lambda kernels, image, magnitude: kernels.equalize(image),
)


def magnitude(op_index: int, level: int, num_levels: int, size: tuple[int, int]) -> float:
    """Return the unsigned magnitude of an operation: the float32 value torchvision uses.

    The unit depends on the operation: slope (ShearX, ShearY), pixels (TranslateX, TranslateY),
    degrees (Rotate), distance of the enhancement factor from 1 (Brightness, Color, Contrast,
    Sharpness), bits kept (Posterize), threshold (Solarize); 0 for the others.

    Args:
        op_index: Index into `OPERATIONS`.
        level: Strength, within ``[0, num_levels)``.
        num_levels: Number of levels, at least 2.
        size: (height, width) of the image in pixels.

    Raises:
        ValueError: An index or level is out of range.

    Example:
        >>> round(magnitude(OPERATIONS.index("Rotate"), 9, 31, (224, 224)), 4)
        9.0
    """
    _check_operation(op_index)
    if num_levels < 2 or not 0 <= level < num_levels:
        raise ValueError(
            f"level {level} of {num_levels} levels, expected 0 <= level < num_levels and "
            "num_levels >= 2"
        )
    name = OPERATIONS[op_index]
    side = {"TranslateX": size[1], "TranslateY": size[0]}.get(name, 0)
    return _magnitudes(name, num_levels, side)[level]


def apply_operation(image: AnyImage, op_index: int, magnitude: float) -> AnyImage:
    """Return the image after one operation.

    Args:
        image: RGB PIL image or uint8 tensor ``[..., 3, height, width]``.
        op_index: Index into `OPERATIONS`.
        magnitude: Signed magnitude, see `magnitude` for its unit.

    Raises:
        TypeError: Neither kind of image.
        ValueError: `op_index` is out of range.
    """
    _check_operation(op_index)
    return _APPLY[op_index](kernels_for(image), image, magnitude)


def _check_operation(op_index: int) -> None:
    if not 0 <= op_index < len(OPERATIONS):
        raise ValueError(f"op_index is {op_index}, expected 0 to {len(OPERATIONS) - 1}")


@functools.lru_cache(maxsize=1024)
def _magnitudes(name: str, num_levels: int, side: int) -> tuple[float, ...]:
    if name == "Posterize":
        dropped = torch.arange(num_levels, device="cpu") / ((num_levels - 1) / _MOST_BITS_DROPPED)
        return tuple((8 - dropped.round().int()).double().tolist())
    start, end = _range(name, side)
    return tuple(torch.linspace(start, end, num_levels, dtype=torch.float32, device="cpu").tolist())


def _range(name: str, side: int) -> tuple[float, float]:
    if name in ("ShearX", "ShearY"):
        return 0.0, _LARGEST_SHEAR
    if name in ("TranslateX", "TranslateY"):
        return 0.0, _LARGEST_TRANSLATION * side
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return 0.0, _LARGEST_ENHANCEMENT
    return {"Rotate": (0.0, _LARGEST_ROTATION), "Solarize": (255.0, 0.0)}.get(name, (0.0, 0.0))
