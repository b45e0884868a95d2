"""Whether Pillow's resize resamples rows or columns first.

Each of the two passes rounds, so the order affects the pixels.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from dr_plugins.transforms.kernels.crops import make_crops, resample_plain

_logger = logging.getLogger(__name__)

_Order = Callable[[np.ndarray, tuple[int, int]], np.ndarray]


def _rows_first(lengths: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return which crops Pillow resamples vertically first, up to version 12: none."""
    return np.zeros(len(lengths), bool)


def _tall_columns_first(lengths: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return which crops Pillow 13 resamples vertically first: those that shrink most in height."""
    lost = lengths.astype(np.int64) - size
    return (lost[:, 0] > 0) & (lost[:, 0] > 2 * lost[:, 1])


@functools.cache
def pillow_order() -> _Order | None:
    """Return the rule by which the installed Pillow resamples crops vertically first.

    Returns:
        A function of the crops' (height, width), ``[B, 2]``, and their size after resizing; None if
        the order of this version of Pillow is unknown.
    """
    for order in (_tall_columns_first, _rows_first):
        if all(_is_pillows(order, *case) for case in _CASES):
            return order
    _logger.warning("this version of Pillow resizes in an unknown way: only CPUs can reproduce it")
    return None


# (height, width) before and after: near the thresholds of the known rules, and far from them.
_CASES = [
    ((30 + lost, 40), (30, 30), interpolation)
    for lost in (0, 1, 19, 20, 21, 22, 60)
    for interpolation in ("bilinear", "bicubic")
] + [
    ((9, 40), (30, 20), "bilinear"),
    ((40, 9), (20, 30), "bilinear"),
    ((40, 9), (41, 60), "bicubic"),
    ((64, 64), (16, 16), "bilinear"),
    ((31, 95), (16, 16), "bicubic"),
    ((90, 17), (12, 5), "bilinear"),
]


def _is_pillows(
    order: _Order, before: tuple[int, int], after: tuple[int, int], interpolation: str
) -> bool:
    noise = np.random.default_rng(0).integers(0, 2, (*before, 3), np.uint8) * np.uint8(255)
    kind = getattr(Image.Resampling, interpolation.upper())
    expected = np.asarray(Image.fromarray(noise).resize(after[::-1], kind))
    box = np.array([[0, 0, *before]])
    columns_first = order(box[:, 2:], after)
    image = torch.from_numpy(noise).permute(2, 0, 1)
    crops = make_crops([image], [0], box, after, interpolation, "pil", columns_first)
    return np.array_equal(resample_plain(crops)[0].permute(1, 2, 0).numpy(), expected)
