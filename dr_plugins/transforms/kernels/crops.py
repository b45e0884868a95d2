"""Crops that are to be resized, brought to a device, and the plain way to resize them there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dr_plugins.transforms.kernels.batch import upload
from dr_plugins.transforms.kernels.checks import check_box
from dr_plugins.transforms.kernels.resampling import resampling_taps

__all__ = ["Axis", "Crops", "make_crops", "resample_plain"]

_CHUNK = 1 << 24  # values between the two passes of the plain version that are in memory at once
_WEIGHTS = {"tensor": np.int16, "pil": np.int32}


class Axis(NamedTuple):
    """How one axis of each crop is resampled, on the device; see `resampling.Taps`.

    Crops of the same length share a table. Tables lie one after the other, each with as many
    weights as it needs: a single large image makes nothing larger for the others.

    Attributes:
        lengths: int32 ``[B]``, pixels of the crop.
        steps: int32 ``[B]``, from one position on the axis to the next in the pixels.
        taps: int32 ``[B]``, weights of each position.
        shifts: int32 ``[B]``.
        starts_at: int32 ``[B]``, where in `starts` the crop's table begins.
        weights_at: int32 ``[B]``, where in `weights` it begins.
        starts: int32 ``[n]``.
        weights: int16 or int32 ``[m]``, those of one position after those of the other.
    """

    lengths: Tensor
    steps: Tensor
    taps: Tensor
    shifts: Tensor
    starts_at: Tensor
    weights_at: Tensor
    starts: Tensor
    weights: Tensor


class Crops(NamedTuple):
    """Crops of images, all on one device.

    Attributes:
        pixels: uint8 ``[n]``, all images one after the other, each ``[height, width, 3]``.
        origins: int64 ``[B]``, where in `pixels` each crop begins.
        turned: bool ``[B]``, whose columns are resampled before their rows.
        first: The axis that is resampled first: the horizontal one, if the crop is not turned.
        second: The other axis.
        size: (height, width) of the results in pixels.
    """

    pixels: Tensor
    origins: Tensor
    turned: Tensor
    first: Axis
    second: Axis
    size: tuple[int, int]


def make_crops(
    images: Sequence[Tensor],
    which: Sequence[int],
    boxes: np.ndarray,
    size: tuple[int, int],
    interpolation: str,
    backend: str,
    turned: np.ndarray,
) -> Crops:
    """Bring what resizing needs to the images' device; see `crop_resize` and `Crops`."""
    device = images[0].device
    sizes = np.array([image.shape[1:] for image in images], np.int64)[list(which)]
    for (height, width), box in zip(sizes.tolist(), boxes.tolist(), strict=True):
        check_box("crop", (height, width), *box)
    offsets = np.cumsum([0, *(image.numel() for image in images)])[list(which)]
    pitches = 3 * sizes[:, 1]
    steps = np.stack([pitches, np.full_like(pitches, 3)], 1)
    targets = np.broadcast_to(np.array(size), (len(boxes), 2))
    lengths = boxes[:, 2:]
    if turned.any():
        lengths, targets, steps = (
            np.where(turned[:, None], pairs[:, ::-1], pairs) for pairs in (lengths, targets, steps)
        )
    flat = [image.permute(1, 2, 0).reshape(-1) for image in images]
    make_axis = functools.partial(
        _axis, interpolation=interpolation, backend=backend, device=device
    )
    second = make_axis(lengths[:, 0], targets[:, 0], steps[:, 0])
    first = make_axis(lengths[:, 1], targets[:, 1], steps[:, 1])
    return Crops(
        flat[0] if len(flat) == 1 else torch.cat(flat),
        upload((offsets + boxes[:, 0] * pitches + 3 * boxes[:, 1]).astype(np.int64), device),
        upload(turned, device),
        first,
        second,
        size,
    )


def _axis(
    lengths: np.ndarray,
    sizes: np.ndarray,
    steps: np.ndarray,
    interpolation: str,
    backend: str,
    device: torch.device,
) -> Axis:
    pairs, table_of = np.unique(np.stack([lengths, sizes], 1), axis=0, return_inverse=True)
    tables = [resampling_taps(*pair, interpolation, backend) for pair in pairs.tolist()]
    weights = [table.weights.ravel() for table in tables]
    per_table = np.array(
        [
            [table.weights.shape[1] for table in tables],
            [table.shift for table in tables],
            np.cumsum([0, *(table.starts.size for table in tables[:-1])]),
            np.cumsum([0, *(values.size for values in weights[:-1])]),
        ]
    )
    per_crop = np.stack([lengths, steps, *per_table[:, table_of.ravel()]]).astype(np.int32)
    # In memory each row begins at a multiple of 16 bytes, or Triton would compile for the others.
    aligned = np.pad(per_crop, ((0, 0), (0, -len(lengths) % 4)))
    starts = np.concatenate([table.starts for table in tables])
    return Axis._make(
        [
            *upload(aligned, device)[:, : len(lengths)].unbind(),
            upload(starts, device),
            upload(np.concatenate(weights).astype(_WEIGHTS[backend]), device),
        ]
    )


def resample_plain(crops: Crops) -> Tensor:
    """Resize crops by PyTorch's own operations; see `crop_resize`."""
    height, width = crops.size
    device = crops.pixels.device
    result = torch.empty(len(crops.origins), 3, height, width, dtype=torch.uint8, device=device)
    for turned in (False, True):
        some = (crops.turned == turned).nonzero().flatten()
        if not len(some):
            continue
        sizes = (height, width) if turned else (width, height)
        most_lines = int(crops.second.lengths[some].max())
        for chunk in some.split(max(_CHUNK // (most_lines * sizes[0] * 3), 1)):
            resampled = _resample_some(crops, chunk, sizes, most_lines)
            result[chunk] = (
                resampled.permute(0, 3, 2, 1) if turned else resampled.permute(0, 3, 1, 2)
            )
    return result


def _resample_some(crops: Crops, some: Tensor, sizes: tuple[int, int], most_lines: int) -> Tensor:
    """Resample the axes to `sizes`, first and second: uint8 ``[b, second, first, 3]``."""
    first, second = (
        _Tables(axis, some, size)
        for axis, size in zip((crops.first, crops.second), sizes, strict=True)
    )
    channels = torch.arange(3, device=some.device)
    lines = torch.arange(most_lines, device=some.device).minimum(second.last)
    lines = crops.origins[some, None] + lines * second.steps

    def in_line(positions: Tensor) -> Tensor:  # [b, first size] -> [b, lines, first size, 3]
        along = positions.long() * first.steps  # a large image has more than 2**31 values
        return crops.pixels[lines[:, :, None, None] + along[:, None, :, None] + channels]

    between = first.weighted_sum(in_line, 1)
    crop = torch.arange(len(some), device=some.device)[:, None]
    return second.weighted_sum(lambda positions: between[crop, positions], 2)


class _Tables:
    """The tables of some crops, for one axis of `size` pixels; per-crop values are ``[b, 1]``."""

    def __init__(self, axis: Axis, some: Tensor, size: int) -> None:
        position = torch.arange(size, device=some.device)
        lengths, self.steps, self.taps, self.shifts, starts_at, weights_at = (
            values[some, None] for values in axis[:6]
        )
        self.last = lengths - 1
        self._starts = axis.starts[starts_at + position]
        self._rows = weights_at + position * self.taps
        self._weights = axis.weights

    def weighted_sum(self, pixels_at: Callable[[Tensor], Tensor], dim: int) -> Tensor:
        """Resample the axis; `dim` is where the weights ``[b, size]`` lack the other axis."""
        shifts = self.shifts[:, :, None, None]
        total: Tensor | int = 1 << (shifts - 1)
        for tap in range(int(self.taps.max())):
            positions = (self._starts + tap).minimum(self.last)
            weights = self._weights[(self._rows + tap).clamp(max=len(self._weights) - 1)].int()
            weights = weights.where(tap < self.taps, 0).unsqueeze(dim).unsqueeze(-1)
            total = total + weights * pixels_at(positions)
        return (total >> shifts).clamp(0, 255).to(torch.uint8)
