"""Image operations on uint8 tensors ``[..., 3, height, width]`` of any strides on any device.

They reproduce Pillow's arithmetic, so the pixels equal those of the `pil` backend on every device.
A batch yields the same pixels as its images separately.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dr_plugins.transforms.kernels.tensor_color import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_sharpness,
    autocontrast,
    equalize,
    posterize,
    solarize,
)
from dr_plugins.transforms.kernels.tensor_geometry import (
    crop,
    erase,
    hflip,
    pad,
    resize,
    rotate,
    shear_x,
    shear_y,
    size,
    translate_x,
    translate_y,
)

__all__ = [
    "adjust_brightness",
    "adjust_contrast",
    "adjust_saturation",
    "adjust_sharpness",
    "autocontrast",
    "crop",
    "equalize",
    "erase",
    "from_image",
    "hflip",
    "pad",
    "posterize",
    "resize",
    "rotate",
    "shear_x",
    "shear_y",
    "size",
    "solarize",
    "to_uint8_chw",
    "translate_x",
    "translate_y",
]


def from_image(image: Image.Image | np.ndarray) -> Tensor:
    """Return the pixels of an RGB image as uint8 ``[3, height, width]`` in channels-last memory.

    Args:
        image: PIL image, or uint8 ``[height, width, 3]``, whose memory is shared.

    Raises:
        ValueError: The image is not of mode RGB.
    """
    if isinstance(image, np.ndarray):
        return torch.from_numpy(image).permute(2, 0, 1)
    if image.mode != "RGB":
        raise ValueError(f"image mode is {image.mode!r}, expected 'RGB'; use image.convert('RGB')")
    # A copy rather than a view: Pillow's own buffer is read-only.
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_uint8_chw(image: Tensor) -> Tensor:
    """Return the image itself."""
    return image
