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

    Attributes:
        lengths: int32 ``[B]``, pixels of the crop.
        starts: int32 ``[B, size]``, the largest size of a crop.
        weights: int16 or int32 ``[B, size, taps]``, most taps of a crop.
        shifts: int32 ``[B]``.
        taps: int32 ``[B]``, how many weights of each crop are in use.
        steps: int32 ``[B]``, from one position on the axis to the next in the pixels.
    """

    lengths: Tensor
    starts: Tensor
    weights: Tensor
    shifts: Tensor
    taps: Tensor
    steps: Tensor


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
        _axis,
        room=max(size) if turned.any() else 0,
        interpolation=interpolation,
        backend=backend,
        device=device,
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
    room: int,
    interpolation: str,
    backend: str,
    device: torch.device,
) -> Axis:
    tables = [
        resampling_taps(length, size, interpolation, backend)
        for length, size in zip(lengths.tolist(), sizes.tolist(), strict=True)
    ]
    taps = [table.weights.shape[1] for table in tables]
    room = max(room, int(sizes.max()))
    starts = np.zeros((len(tables), room), np.int32)
    weights = np.zeros((len(tables), room, max(taps)), _WEIGHTS[backend])
    for i, (table, size, count) in enumerate(zip(tables, sizes.tolist(), taps, strict=True)):
        starts[i, :size] = table.starts
        weights[i, :size, :count] = table.weights
    per_crop = np.array([lengths, [table.shift for table in tables], taps, steps], np.int32)
    # In memory each row begins at a multiple of 16 bytes, or Triton would compile for the others.
    aligned = np.pad(per_crop, ((0, 0), (0, -len(tables) % 4)))
    counts, shifts, taps_used, steps_taken = upload(aligned, device)[:, : len(tables)]
    return Axis(
        counts, upload(starts, device), upload(weights, device), shifts, taps_used, steps_taken
    )


def resample_plain(crops: Crops) -> Tensor:
    """Resize crops by PyTorch's own operations; see `crop_resize`."""
    most_lines = int(crops.second.lengths.max())
    each = max(_CHUNK // (most_lines * crops.first.starts.shape[1] * 3), 1)
    count = len(crops.origins)
    chunks = [_resample_some(crops, slice(i, i + each), most_lines) for i in range(0, count, each)]
    return torch.cat(chunks)


def _resample_some(crops: Crops, some: slice, most_lines: int) -> Tensor:
    first, second = (Axis(*(x[some] for x in axis)) for axis in (crops.first, crops.second))
    channels = torch.arange(3, device=crops.pixels.device)
    lines = torch.arange(most_lines, device=crops.pixels.device).minimum(
        second.lengths[:, None] - 1
    )
    lines = crops.origins[some, None] + lines * second.steps[:, None]

    def in_line(positions: Tensor) -> Tensor:  # [B, first size] -> [B, lines, first size, 3]
        along = positions.long() * first.steps[:, None]  # a large image has more than 2**31 values
        return crops.pixels[lines[:, :, None, None] + along[:, None, :, None] + channels]

    between = _weighted_sum(in_line, first, 1)
    crop = torch.arange(len(between), device=between.device)[:, None]
    result = _weighted_sum(lambda positions: between[crop, positions], second, 2)
    height, width = crops.size
    if first.starts.shape == second.starts.shape:  # otherwise nothing is turned
        result = torch.where(crops.turned[some, None, None, None], result.transpose(1, 2), result)
    return result[:, :height, :width].permute(0, 3, 1, 2).contiguous()


def _weighted_sum(pixels_at: Callable[[Tensor], Tensor], axis: Axis, dim: int) -> Tensor:
    """Resample one axis; `dim` is where the weights ``[B, size]`` lack the other axis."""
    shifts = axis.shifts[:, None, None, None]
    total: Tensor | int = 1 << (shifts - 1)
    for tap in range(axis.weights.shape[2]):
        positions = (axis.starts + tap).minimum(axis.lengths[:, None] - 1)
        weights = axis.weights[:, :, tap].int().unsqueeze(dim).unsqueeze(-1)
        total = total + weights * pixels_at(positions)
    return (total >> shifts).clamp(0, 255).to(torch.uint8)
