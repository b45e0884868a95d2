"""Batched crop and resize on any device, bit-identical to `resize` on a CPU."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dr_plugins.transforms.kernels.crops import Crops, make_crops, resample_plain
from dr_plugins.transforms.kernels.pillow_order import pillow_order

_TRITON = "dr_plugins.transforms.kernels.crop_resize_triton"
_logger = logging.getLogger(__name__)


def crop_resize(
    images: Sequence[Tensor],
    which: Sequence[int],
    boxes: np.ndarray,
    size: tuple[int, int],
    interpolation: str,
    backend: str = "tensor",
) -> Tensor:
    """Cut boxes out of images and resize them, like `crop` and `resize` on a CPU.

    Args:
        images: uint8 ``[3, height, width]``, of any sizes, on one device; channels-last memory is
            fastest.
        which: Index of the image that each box is cut from, ``[B]``.
        boxes: Integers ``[B, 4]``: top, left, height, width in pixels.
        size: (height, width) of the results in pixels.
        interpolation: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``.
        backend: Backend whose `resize` is reproduced; ``"pil"`` needs a known `pillow_order`.

    Returns:
        uint8 ``[B, 3, height, width]`` on the images' device.

    Raises:
        ValueError: A box is empty or leaves its image, or the interpolation is unknown.

    Example:
        >>> image = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)
        >>> crop_resize([image], [0], np.array([[0, 0, 2, 4]]), (1, 2), "bilinear")[0, 0]
        tensor([[3, 4]], dtype=torch.uint8)
    """
    columns_first = np.zeros(len(boxes), bool)
    if backend == "pil":
        order = pillow_order()
        assert order is not None
        columns_first = order(boxes[:, 2:], size)
    return resample(make_crops(images, which, boxes, size, interpolation, backend, columns_first))


def resample(crops: Crops) -> Tensor:
    """Resize crops in the fastest way available on their device; see `crop_resize`."""
    device = crops.pixels.device
    if device.type == "cuda" and _is_usable(device):
        return importlib.import_module(_TRITON).resample_triton(crops)
    return resample_plain(crops)


@functools.cache
def _is_usable(device: torch.device) -> bool:
    """Whether the Triton kernel compiles on a device and yields the plain version's pixels."""
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (3, 61, 83), np.uint8)).to(device)
    boxes = np.array([[0, 0, 61, 83], [3, 5, 40, 24], [60, 82, 1, 1]])
    columns_first = np.array([True, False, False])
    crops = make_crops([image], [0, 0, 0], boxes, (24, 32), "bicubic", "pil", columns_first)
    try:
        found = importlib.import_module(_TRITON).resample_triton(crops)
        exact = torch.equal(found, resample_plain(crops))
        reason = "its pixels differ from those of PyTorch's operations"
    except torch.OutOfMemoryError:  # temporary, not a property of the kernel
        raise
    except Exception as error:  # no Triton, no C compiler, an unsupported device
        exact, reason = False, str(error).partition("\n")[0]
    if not exact:
        _logger.warning("resizing on %s without the Triton kernel, slower: %s", device, reason)
    return exact
