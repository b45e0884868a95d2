"""Helpers for operations on batches: move parameters to the images' device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def upload(values: np.ndarray, device: torch.device) -> Tensor:
    """Return an array as a tensor on a device, without synchronizing."""
    host = torch.from_numpy(np.ascontiguousarray(values))
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


def box_mask(boxes: np.ndarray, images: Tensor) -> Tensor:
    """Return which pixels lie in each image's box.

    Args:
        boxes: Integers ``[B, 4]``: top, left, and the first row and column beyond the box.
        images: ``[B, 3, H, W]``.

    Returns:
        bool ``[B, 1, H, W]`` on the device of `images`.

    Example:
        >>> box_mask(np.array([[0, 1, 2, 3]]), torch.zeros(1, 3, 2, 4))[0, 0].int()
        tensor([[0, 1, 1, 0],
                [0, 1, 1, 0]], dtype=torch.int32)
    """
    edges = upload(boxes.astype(np.int32).T, images.device)
    top, left, bottom, right = edges[:, :, None]
    height, width = images.shape[-2:]
    rows = torch.arange(height, dtype=torch.int32, device=images.device)
    columns = torch.arange(width, dtype=torch.int32, device=images.device)
    in_rows = (rows >= top) & (rows < bottom)
    in_columns = (columns >= left) & (columns < right)
    return (in_rows[:, None, :, None]) & (in_columns[:, None, None, :])
