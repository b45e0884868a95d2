"""Which way Pillow goes first when it resizes: along the rows or along the columns.

Either way has two passes, each of which rounds, so it shows in the pixels.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from dr_plugins.transforms.kernels.crops import make_crops, resample_plain

__all__ = ["pillow_order"]

_logger = logging.getLogger(__name__)

_Order = Callable[[np.ndarray, tuple[int, int]], np.ndarray]


def _rows_first(lengths: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return which crops Pillow up to version 12 resamples vertically first: none."""
    return np.zeros(len(lengths), bool)


def _tall_turned(lengths: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return which crops Pillow 13 resamples vertically first: those that lose much height."""
    lost = lengths.astype(np.int64) - size
    return (lost[:, 0] > 0) & (lost[:, 0] > 2 * lost[:, 1])


@functools.cache
def pillow_order() -> _Order | None:
    """Return which crops Pillow, as it is installed here, resamples vertically first.

    Returns:
        A function of the crops' (height, width), ``[B, 2]``, and the size that they get; None if
        this version of Pillow resizes in no known way.
    """
    for order in (_tall_turned, _rows_first):
        if all(_is_pillows(order, *case) for case in _CASES):
            return order
    _logger.warning("this version of Pillow resizes in an unknown way: only CPUs can repeat it")
    return None


# (height, width) before and after: around the borders of the known rules, and far from them.
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
    turned = order(box[:, 2:], after)
    image = torch.from_numpy(noise).permute(2, 0, 1)
    crops = make_crops([image], [0], box, after, interpolation, "pil", turned)
    return np.array_equal(resample_plain(crops)[0].permute(1, 2, 0).numpy(), expected)
