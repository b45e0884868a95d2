"""Colour operations on uint8 tensors ``[..., 3, height, width]``, in Pillow's arithmetic.

Float steps are single elementwise operations in a fixed order, which IEEE 754 rounds identically on
every device. Fused operations (`torch.lerp`, ``add(..., alpha=)``) could round differently.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dr_plugins.transforms.kernels.checks import check_bits

_LEVELS = 256
_SMOOTH_CENTER, _SMOOTH_SUM = 5, 13  # 3x3 kernel: ones around a five


def adjust_brightness(image: Tensor, factor: float) -> Tensor:
    """Blend black (factor 0) with the image (factor 1); factors above 1 brighten it."""
    return _to_uint8(image.float().mul_(factor))


def adjust_saturation(image: Tensor, factor: float) -> Tensor:
    """Blend the grey version (factor 0) with the image (factor 1)."""
    image = image.contiguous()
    return _blend(_luma(image).float().unsqueeze(-3), image, factor)


def adjust_contrast(image: Tensor, factor: float) -> Tensor:
    """Blend the mean grey level (factor 0) with the image (factor 1)."""
    image = image.contiguous()
    pixels = image.shape[-2] * image.shape[-1]
    total = _luma(image).sum((-2, -1), dtype=torch.int64)
    mean = torch.div(2 * total + pixels, 2 * pixels, rounding_mode="floor")
    return _blend(mean.float()[..., None, None, None], image, factor)


def adjust_sharpness(image: Tensor, factor: float) -> Tensor:
    """Blend a smoothed version (factor 0) with the image (factor 1), except at the border."""
    result = image.clone()
    if min(image.shape[-2:]) > 2:
        interior = image[..., 1:-1, 1:-1]
        result[..., 1:-1, 1:-1] = _blend(_smooth(image), interior, factor)
    return result


def posterize(image: Tensor, bits: int) -> Tensor:
    """Keep the `bits` (1 to 8) highest bits of every value.

    Raises:
        ValueError: `bits` is outside 1 to 8.
    """
    check_bits(bits)
    return image & (0xFF << (8 - bits) & 0xFF)


def solarize(image: Tensor, threshold: float) -> Tensor:
    """Invert all values at or above `threshold`."""
    lowest = max(math.ceil(threshold), 0)
    if lowest > 255:
        return image
    # Comparing uint8 is slow on CPUs. 255 - v is v with all bits flipped; -1 has all bits set.
    above = image.short().sub_(lowest - 1).clamp_(0, 1).neg_()
    return image ^ above.to(torch.uint8)


def autocontrast(image: Tensor) -> Tensor:
    """Stretch every channel linearly to the full range of 0 to 255."""
    image = image.contiguous()
    low = image.amin((-2, -1)).double().unsqueeze(-1)
    span = image.amax((-2, -1)).double().unsqueeze(-1) - low
    # Not `255.0 / span`: torch multiplies by the reciprocal, which rounds twice.
    scale = torch.full_like(span, 255.0).div(span)
    levels = torch.arange(_LEVELS, dtype=torch.float64, device=image.device)
    table = (levels * scale + -low * scale).clamp(0, 255)
    return _lookup(image, torch.where(span > 0, table, levels))


def equalize(image: Tensor) -> Tensor:
    """Map every channel so that its histogram becomes as uniform as possible."""
    image = image.contiguous()
    counts = _histogram(image)
    levels = torch.arange(_LEVELS, device=image.device)
    brightest = torch.where(counts > 0, levels, 0).amax(-1, keepdim=True)
    total = image.shape[-2] * image.shape[-1]
    step = (total - counts.gather(-1, brightest)) // 255
    below = counts.cumsum(-1) - counts
    table = (step // 2 + below) // step.clamp(min=1)
    return _lookup(image, torch.where(step > 0, table.clamp(max=255), levels))


def _to_uint8(values: Tensor) -> Tensor:
    # Via int16, because direct conversion from float to uint8 is not vectorized on CPUs.
    return values.clamp_(0, 255).short().to(torch.uint8)


def _blend(degenerate: Tensor, image: Tensor, factor: float) -> Tensor:
    """Return ``degenerate + factor * (image - degenerate)``, truncated to integers in 0..255."""
    return _to_uint8((image.float() - degenerate).mul_(factor).add_(degenerate))


def _luma(image: Tensor) -> Tensor:
    """Return grey levels as int32 ``[..., height, width]``: ITU-R 601 in 16-bit fixed point."""
    red, green, blue = image.unbind(-3)
    luma = red.int().mul_(19595).add_(green, alpha=38470).add_(blue, alpha=7471)
    return luma.add_(0x8000).bitwise_right_shift_(16)


def _smooth(image: Tensor) -> Tensor:
    """Return the 3x3-smoothed interior as whole float32 numbers ``[..., height-2, width-2]``."""
    values = image.short()
    rows = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    weighted = box.add_(values[..., 1:-1, 1:-1], alpha=_SMOOTH_CENTER - 1)
    # n / 13 + 0.5 is an integer or at least 1/26 away from one: rounding errors cannot change the
    # floor.
    return weighted.float().mul_(1 / _SMOOTH_SUM).add_(0.5).floor_()


def _histogram(image: Tensor) -> Tensor:
    """Return the histogram of each channel, int64 ``[..., 3, 256]``."""
    planes = image.reshape(-1, image.shape[-2] * image.shape[-1])
    count = _counts_on_cpu if image.device.type == "cpu" else _counts_anywhere
    return count(planes).view(*image.shape[:-2], _LEVELS)


def _counts_on_cpu(planes: Tensor) -> Tensor:
    return torch.stack([torch.bincount(plane, minlength=_LEVELS) for plane in planes])


def _counts_anywhere(planes: Tensor) -> Tensor:
    # `bincount` would synchronize with the device once per plane.
    counts = torch.zeros(len(planes), _LEVELS, dtype=torch.int64, device=planes.device)
    return counts.scatter_add_(1, planes.long(), counts.new_ones(1, 1).expand(planes.shape))


def _lookup(image: Tensor, table: Tensor) -> Tensor:
    """Replace each value by its entry in a table ``[256]`` or ``[..., 3, 256]``."""
    planes = image.flatten(-2)
    table = table.to(torch.uint8).expand(*planes.shape[:-1], _LEVELS)
    look_up = _lookup_on_cpu if image.device.type == "cpu" else _lookup_anywhere
    return look_up(planes, table).view(image.shape)


def _lookup_anywhere(planes: Tensor, table: Tensor) -> Tensor:
    return table.gather(-1, planes.long())


def _lookup_on_cpu(planes: Tensor, table: Tensor) -> Tensor:
    # Python's `bytes.translate` needs no 8-byte index per value.
    result = np.empty(planes.shape, np.uint8)
    rows = planes.reshape(-1, planes.shape[-1]).numpy()
    for row, entries, out in zip(
        rows, table.reshape(-1, _LEVELS).numpy(), result.reshape(rows.shape), strict=True
    ):
        out[:] = np.frombuffer(row.tobytes().translate(entries.tobytes()), np.uint8)
    return torch.from_numpy(result)
