"""Moving crops to a device, and resizing them there with PyTorch's operations."""

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

_CHUNK = 1 << 24  # most values held between the two passes of the plain version
_WEIGHTS = {"tensor": np.int16, "pil": np.int32}


class Axis(NamedTuple):
    """Resampling tables for one axis of each crop, on the device; see `resampling.Taps`.

    Crops of the same length share a table. Tables are concatenated, each with only the weights it
    needs, so a large image does not enlarge the tables of others.

    Attributes:
        lengths: int32 ``[B]``, pixels of the crop.
        steps: int32 ``[B]``, stride in the pixels between positions on the axis.
        taps: int32 ``[B]``, weights per position.
        shifts: int32 ``[B]``.
        starts_at: int32 ``[B]``, offset of the crop's table in `starts`.
        weights_at: int32 ``[B]``, offset of the crop's table in `weights`.
        starts: int32 ``[n]``.
        weights: int16 or int32 ``[m]``, ordered by position.
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
        pixels: uint8 ``[n]``, all images concatenated, each ``[height, width, 3]``.
        origins: int64 ``[B]``, offset of each crop in `pixels`.
        columns_first: bool ``[B]``, whether the vertical axis is resampled first.
        first: The axis that is resampled first.
        second: The other axis.
        size: (height, width) of the results in pixels.
    """

    pixels: Tensor
    origins: Tensor
    columns_first: Tensor
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
    columns_first: np.ndarray,
) -> Crops:
    """Move the data for resizing to the images' device; see `crop_resize` and `Crops`."""
    device = images[0].device
    sizes = np.array([image.shape[1:] for image in images], np.int64)[list(which)]
    for (height, width), box in zip(sizes.tolist(), boxes.tolist(), strict=True):
        check_box("crop", (height, width), *box)
    offsets = np.cumsum([0, *(image.numel() for image in images)])[list(which)]
    pitches = 3 * sizes[:, 1]
    steps = np.stack([pitches, np.full_like(pitches, 3)], 1)
    targets = np.broadcast_to(np.array(size), (len(boxes), 2))
    lengths = boxes[:, 2:]
    if columns_first.any():
        lengths, targets, steps = (
            np.where(columns_first[:, None], pairs[:, ::-1], pairs)
            for pairs in (lengths, targets, steps)
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
        upload(columns_first, device),
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
    # Rows start at multiples of 16 bytes; Triton would recompile for other alignments.
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
    """Resize crops with PyTorch's operations; see `crop_resize`."""
    height, width = crops.size
    device = crops.pixels.device
    result = torch.empty(len(crops.origins), 3, height, width, dtype=torch.uint8, device=device)
    for columns_first in (False, True):
        some = (crops.columns_first == columns_first).nonzero().flatten()
        if not len(some):
            continue
        sizes = (height, width) if columns_first else (width, height)
        most_lines = int(crops.second.lengths[some].max())
        for chunk in some.split(max(_CHUNK // (most_lines * sizes[0] * 3), 1)):
            resampled = _resample_some(crops, chunk, sizes, most_lines)
            result[chunk] = (
                resampled.permute(0, 3, 2, 1) if columns_first else resampled.permute(0, 3, 1, 2)
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
        """Resample the axis; `dim` is the other axis, which the weights ``[b, size]`` miss."""
        shifts = self.shifts[:, :, None, None]
        total: Tensor | int = 1 << (shifts - 1)
        for tap in range(int(self.taps.max())):
            positions = (self._starts + tap).minimum(self.last)
            weights = self._weights[(self._rows + tap).clamp(max=len(self._weights) - 1)].int()
            weights = weights.where(tap < self.taps, 0).unsqueeze(dim).unsqueeze(-1)
            total = total + weights * pixels_at(positions)
        return (total >> shifts).clamp(0, 255).to(torch.uint8)
