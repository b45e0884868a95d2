"""Geometric operations on uint8 tensors ``[..., 3, height, width]``, in Pillow's arithmetic."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dr_plugins.transforms.kernels import affine
from dr_plugins.transforms.kernels.batch import upload
from dr_plugins.transforms.kernels.checks import check_box, check_interpolation
from dr_plugins.transforms.kernels.crop_resize import crop_resize
from dr_plugins.transforms.kernels.resampling import nearest_positions

_FIXED_POINT_BITS = 16
_FIXED_POINT_LIMIT = 32768.0
_CACHED_PIXELS = 512 * 512


def size(image: Tensor) -> tuple[int, int]:
    """Return (height, width) in pixels."""
    return image.shape[-2], image.shape[-1]


def crop(image: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Return the pixels of a box, as a view.

    Raises:
        ValueError: The box is empty or leaves the image.
    """
    check_box("crop", size(image), top, left, height, width)
    return image[..., top : top + height, left : left + width]


def pad(image: Tensor, padding: int) -> Tensor:
    """Return the image with `padding` black pixels added on every side."""
    return F.pad(image, [padding] * 4)


def hflip(image: Tensor) -> Tensor:
    """Return the image with left and right exchanged."""
    return image.flip(-1)


def erase(image: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Return the image with the pixels of a box black.

    Raises:
        ValueError: The box is empty or leaves the image.
    """
    check_box("erase", size(image), top, left, height, width)
    erased = image.clone()
    erased[..., top : top + height, left : left + width] = 0
    return erased


def resize(image: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Return the image resized to ``size = (height, width)``, antialiased.

    ``"nearest"`` yields the pixels of the `pil` backend. ``"bilinear"`` and ``"bicubic"`` round
    differently, by up to two levels. Where ``"bicubic"`` overshoots the range of 0 to 255 the
    difference can be larger, because values are clipped after each of the two passes, whose order
    may differ from Pillow's. All devices yield the same pixels as the CPU. On a CPU, channels-last
    memory stays channels-last.

    Args:
        image: uint8 ``[..., 3, height, width]``; a single image is fastest in channels-last memory.
        size: (height, width) of the result in pixels.
        interpolation: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``.

    Raises:
        ValueError: Unknown interpolation.
    """
    check_interpolation(interpolation)
    if interpolation == "nearest":
        return _resize_nearest(image, size)
    resized = _resize_on_cpu if image.device.type == "cpu" else _resize_anywhere
    return resized(image, size, interpolation).reshape(*image.shape[:-2], *size)


def shear_x(image: Tensor, factor: float) -> Tensor:
    """Return the image with row ``y`` moved left by ``factor * y`` pixels."""
    return _transform(image, affine.shear_x(factor))


def shear_y(image: Tensor, factor: float) -> Tensor:
    """Return the image with column ``x`` moved up by ``factor * x`` pixels."""
    return _transform(image, affine.shear_y(factor))


def translate_x(image: Tensor, pixels: int) -> Tensor:
    """Return the image moved right by `pixels`."""
    return _shift(image, -1, pixels)


def translate_y(image: Tensor, pixels: int) -> Tensor:
    """Return the image moved down by `pixels`."""
    return _shift(image, -2, pixels)


def rotate(image: Tensor, degrees: float) -> Tensor:
    """Return the image rotated counter-clockwise around its centre, at its size.

    Raises:
        ValueError: The image is too large for 16.16 fixed-point coordinates.
    """
    return _transform(image, affine.rotation(degrees, *size(image)))


def _shift(image: Tensor, dim: int, pixels: int) -> Tensor:
    length = image.shape[dim]
    shift = max(-length, min(pixels, length))
    kept = length - abs(shift)
    result = torch.zeros_like(image)
    moved = image.narrow(dim, max(-shift, 0), kept)
    result.narrow(dim, max(shift, 0), kept).copy_(moved)
    return result


def _resize_on_cpu(image: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    batch = _interpolation_batch(image, size)
    return F.interpolate(batch, size, mode=interpolation, antialias=True)


def _resize_anywhere(image: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    # torch resizes uint8 with antialiasing only on CPUs.
    images = image.reshape(-1, *image.shape[-3:])
    boxes = np.tile([0, 0, *image.shape[-2:]], (len(images), 1))
    return crop_resize(images.unbind(), range(len(images)), boxes, size, interpolation)


def _interpolation_batch(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the images as ``[n, 3, height, width]`` in the layout that interpolates fastest."""
    # torch (2.14 at least) fails to resize contiguous uint8 images to one pixel.
    if image.stride(-3) != 1 and tuple(size) != (1, 1):
        return image.reshape(-1, *image.shape[-3:])
    # Adding the batch axis to a permuted view would yield a stride that torch does not recognize
    # as channels-last, so it is added to the interleaved pixels.
    interleaved = image.movedim(-3, -1).contiguous()
    return interleaved.reshape(-1, *interleaved.shape[-3:]).permute(0, 3, 1, 2)


def _resize_nearest(image: Tensor, size: tuple[int, int]) -> Tensor:
    for dim, length in zip((-2, -1), size, strict=True):
        positions = nearest_positions(image.shape[dim], length)
        image = image.index_select(dim, upload(positions, image.device))
    return image


def _transform(image: Tensor, matrix: affine.Matrix) -> Tensor:
    """Sample the nearest input pixel for every output pixel; black outside the image."""
    height, width = size(image)
    if height * width > _CACHED_PIXELS:
        arrays = _source(matrix, height, width)
        index, inside = (upload(array, image.device) for array in arrays)
    else:
        index, inside = _cached_source(matrix, height, width, image.device)
    planes = image.flatten(-2)
    return planes.gather(-1, index.expand(planes.shape)).mul_(inside).view(image.shape)


def _source(matrix: affine.Matrix, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return flat input positions (int64) and whether they are inside (uint8, 0 or 1).

    Both have shape ``[height * width]``; positions outside are set to 0.
    """
    a, b, c, d, e, f = matrix
    x = _fixed_point_axis(a, b, c, height, width)
    y = _fixed_point_axis(d, e, f, height, width)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = np.where(inside, y * width + x, 0)
    return index.ravel(), inside.ravel().view(np.uint8)


@functools.lru_cache(maxsize=128)  # more than any policy needs, so no entry in use is evicted
def _cached_source(
    matrix: affine.Matrix, height: int, width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    # Complete on return, so any stream may use it.
    index, inside = (torch.from_numpy(array) for array in _source(matrix, height, width))
    return index.to(device), inside.to(device)


def _fixed_point_axis(
    per_x: float, per_y: float, offset: float, height: int, width: int
) -> np.ndarray:
    """Return one input coordinate of every output pixel, int64 ``[height, width]``.

    Pillow accumulates 16.16 fixed-point steps, starting at the centre of the first pixel.

    Raises:
        ValueError: A coordinate of a corner has more than 15 bits.
    """
    corners = [per_x * x + per_y * y + offset for x in (0, width) for y in (0, height)]
    if max(map(abs, corners)) >= _FIXED_POINT_LIMIT:
        raise ValueError(
            f"an image of {height}x{width} pixels is too large to rotate or shear, "
            f"expected coordinates below {_FIXED_POINT_LIMIT:.0f}; resize or crop it first"
        )
    start = _to_fixed_point(offset + per_x * 0.5 + per_y * 0.5)
    along_x = _to_fixed_point(per_x) * np.arange(width, dtype=np.int64)
    along_y = _to_fixed_point(per_y) * np.arange(height, dtype=np.int64)
    return (start + along_y[:, None] + along_x) >> _FIXED_POINT_BITS


def _to_fixed_point(value: float) -> int:
    return math.floor(value * (1 << _FIXED_POINT_BITS) + 0.5)
