"""The integer tables with which torch and Pillow resize 8-bit images on a CPU, antialiased.

Each output pixel is ``clamp(sum(weight * pixel) >> shift, 0, 255)`` over neighbouring pixels of a
row, then of a column (or in the reverse order, see `pillow_order`). The arithmetic is integer, so
these tables yield the same pixels on every device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dr_plugins.transforms.kernels.checks import check_interpolation

_WEIGHT_LIMIT = 1 << 15
_MOST_BITS = 22
_ONE_BITS = 14  # for a weight of 1.0: more would exceed int16
_PILLOW_BITS = 22


class Taps(NamedTuple):
    """Resampling table of one axis.

    Attributes:
        starts: int32 ``[size]``, the first input position of each output position.
        weights: int16 (int32 for `pil`) ``[size, taps]``, of consecutive input positions; padded
            with zeros, whose positions may exceed the axis.
        shift: Fraction bits of the weights.
    """

    starts: np.ndarray
    weights: np.ndarray
    shift: int


@functools.lru_cache(maxsize=8192)
def resampling_taps(length: int, size: int, interpolation: str, backend: str = "tensor") -> Taps:
    """Return the table that resamples an axis of `length` pixels to `size` pixels.

    Args:
        length: Pixels before.
        size: Pixels after.
        interpolation: ``"nearest"``, ``"bilinear"`` or ``"bicubic"`` (a = -0.5).
        backend: ``"tensor"`` for torch's tables, ``"pil"`` for Pillow's, which are more precise.

    Raises:
        ValueError: Unknown interpolation.

    Example:
        >>> resampling_taps(4, 2, "bilinear").weights.tolist()
        [[28087, 28087, 9362, 0, 0], [9362, 28087, 28087, 0, 0]]
    """
    check_interpolation(interpolation)
    if length == size:
        return _single(np.arange(size))
    if interpolation == "nearest":
        return _single(nearest_positions(length, size))
    bits = _PILLOW_BITS if backend == "pil" else None
    return _antialiased(length, size, *_FILTERS[interpolation], bits)


def nearest_positions(length: int, size: int) -> np.ndarray:
    """Return Pillow's input position of every output position, int64 ``[size]``."""
    # Pillow accumulates the step; multiplying would round differently.
    step = length / size
    return np.cumsum([step * 0.5] + [step] * (size - 1)).astype(np.int64)


def _single(positions: np.ndarray) -> Taps:
    weights = np.full((len(positions), 1), 1 << _ONE_BITS, np.int16)
    return Taps(positions.astype(np.int32), weights, _ONE_BITS)


def _antialiased(
    length: int,
    size: int,
    weight: Callable[[np.ndarray], np.ndarray],
    radius: int,
    bits: int | None,
) -> Taps:
    # Uses the order and type of every operation in torch and Pillow, which agree: any difference
    # would change how weights round.
    scale = length / size
    stretch = max(scale, 1.0)
    support = radius * stretch
    taps = math.ceil(np.float32(support)) * 2 + 1
    centers = scale * (np.arange(size) + 0.5)
    starts = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    stops = np.minimum((centers + support + 0.5).astype(np.int64), length)
    index = np.arange(taps)
    weights = weight((index + starts[:, None] - centers[:, None] + 0.5) * (1.0 / stretch))
    weights[index >= (stops - starts)[:, None]] = 0.0
    weights /= np.cumsum(weights, 1)[:, -1:]  # adds sequentially, unlike `sum`
    shift = _bits(float(weights.max())) if bits is None else bits
    rounded = np.trunc(weights * (1 << shift) + np.copysign(0.5, weights))
    dtype = np.int16 if bits is None else np.int32
    return Taps(starts.astype(np.int32), rounded.astype(dtype), shift)


def _bits(largest: float) -> int:
    """Return the largest number of fraction bits for which the largest weight fits an int16."""
    bits = 0
    while bits < _MOST_BITS and int(0.5 + largest * (1 << (bits + 1))) < _WEIGHT_LIMIT:
        bits += 1
    return bits


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: np.ndarray) -> np.ndarray:
    x, a = np.abs(x), -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_FILTERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
    "bilinear": (_triangle, 1),
    "bicubic": (_cubic, 2),
}
