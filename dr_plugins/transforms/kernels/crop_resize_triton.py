"""`crop_resize.resample` as one Triton kernel: one launch, no intermediate results in memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dr_plugins.transforms.kernels.crops import Crops

_BLOCK = 256  # pixels of the result


def resample_triton(crops: Crops) -> Tensor:
    """Resize crops; see `crop_resize`."""
    count, (height, width) = len(crops.origins), crops.size
    result = torch.empty(count, 3, height, width, dtype=torch.uint8, device=crops.pixels.device)
    grid = (triton.cdiv(height * width, _BLOCK), count)
    with torch.cuda.device_of(crops.pixels):  # Triton launches on the current device
        _resample[grid](
            crops.pixels, crops.origins, crops.columns_first,
            *crops.first, *crops.second, result, height, width, block=_BLOCK,
        )  # fmt: skip
    return result


@triton.jit
def _resample(  # type: ignore[no-untyped-def]
    pixels, origins, columns_first,
    lengths_1, steps_1, taps_1, shifts_1, starts_at_1, weights_at_1, starts_1, weights_1,
    lengths_2, steps_2, taps_2, shifts_2, starts_at_2, weights_at_2, starts_2, weights_2,
    result, height, width, block: tl.constexpr,
):  # fmt: skip
    crop = tl.program_id(1)
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    inside = pixel < height * width
    y, x = pixel // width, pixel % width

    is_columns_first = tl.load(columns_first + crop)
    place_1, place_2 = tl.where(is_columns_first, y, x), tl.where(is_columns_first, x, y)
    start_1 = tl.load(starts_1 + tl.load(starts_at_1 + crop) + place_1, inside, 0)
    start_2 = tl.load(starts_2 + tl.load(starts_at_2 + crop) + place_2, inside, 0)
    count_1, count_2 = tl.load(taps_1 + crop), tl.load(taps_2 + crop)
    row_1 = weights_1 + tl.load(weights_at_1 + crop) + place_1 * count_1
    row_2 = weights_2 + tl.load(weights_at_2 + crop) + place_2 * count_2
    last_1, last_2 = tl.load(lengths_1 + crop) - 1, tl.load(lengths_2 + crop) - 1
    step_1, step_2 = tl.load(steps_1 + crop), tl.load(steps_2 + crop)
    shift_1, shift_2 = tl.load(shifts_1 + crop), tl.load(shifts_2 + crop)
    half_1, half_2 = 1 << (shift_1 - 1), 1 << (shift_2 - 1)
    corner = pixels + tl.load(origins + crop)

    red = tl.full([block], half_2, tl.int32)
    green, blue = red, red
    for j in range(count_2):
        weight_2 = tl.load(row_2 + j, inside, 0).to(tl.int32)
        line = corner + tl.minimum(start_2 + j, last_2).to(tl.int64) * step_2
        r = tl.full([block], half_1, tl.int32)
        g, b = r, r
        # A line needed by several output pixels is recomputed for each: its input is in cache.
        for i in range(count_1):
            weight_1 = tl.load(row_1 + i, inside, 0).to(tl.int32)
            source = line + tl.minimum(start_1 + i, last_1).to(tl.int64) * step_1
            r += weight_1 * tl.load(source, inside, 0).to(tl.int32)
            g += weight_1 * tl.load(source + 1, inside, 0).to(tl.int32)
            b += weight_1 * tl.load(source + 2, inside, 0).to(tl.int32)
        red += weight_2 * tl.minimum(tl.maximum(r >> shift_1, 0), 255)
        green += weight_2 * tl.minimum(tl.maximum(g >> shift_1, 0), 255)
        blue += weight_2 * tl.minimum(tl.maximum(b >> shift_1, 0), 255)

    plane = height * width
    target = result + crop.to(tl.int64) * 3 * plane + pixel
    tl.store(target, tl.minimum(tl.maximum(red >> shift_2, 0), 255).to(tl.uint8), inside)
    tl.store(target + plane, tl.minimum(tl.maximum(green >> shift_2, 0), 255).to(tl.uint8), inside)
    tl.store(
        target + 2 * plane, tl.minimum(tl.maximum(blue >> shift_2, 0), 255).to(tl.uint8), inside
    )
