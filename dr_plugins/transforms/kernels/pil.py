"""Image operations on `PIL.Image.Image` of mode RGB.

RandAugment's operations are bit-identical to torchvision's RandAugment on PIL images with nearest
interpolation and black fill.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from dr_plugins.transforms.kernels import affine, tensor
from dr_plugins.transforms.kernels.checks import check_bits, check_box, check_interpolation

_BLACK = (0, 0, 0)
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def from_image(image: Image.Image | np.ndarray) -> Image.Image:
    """Return the image itself, or a PIL image of the pixels ``[height, width, 3]``."""
    return image if isinstance(image, Image.Image) else Image.fromarray(image)


def to_uint8_chw(image: Image.Image) -> Tensor:
    """Return the pixels as a uint8 tensor ``[3, height, width]`` in channels-last memory."""
    return tensor.from_image(image)


def size(image: Image.Image) -> tuple[int, int]:
    """Return (height, width) in pixels."""
    return image.height, image.width


def crop(image: Image.Image, top: int, left: int, height: int, width: int) -> Image.Image:
    """Return the pixels of a box.

    Raises:
        ValueError: The box is empty or leaves the image.
    """
    check_box("crop", size(image), top, left, height, width)
    return image.crop((left, top, left + width, top + height))


def pad(image: Image.Image, padding: int) -> Image.Image:
    """Return the image with `padding` black pixels added on every side."""
    return ImageOps.expand(image, border=padding, fill=0)


def hflip(image: Image.Image) -> Image.Image:
    """Return the image with left and right exchanged."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def erase(image: Image.Image, top: int, left: int, height: int, width: int) -> Image.Image:
    """Return the image with the pixels of a box black.

    Raises:
        ValueError: The box is empty or leaves the image.
    """
    check_box("erase", size(image), top, left, height, width)
    erased = image.copy()
    erased.paste(_BLACK, (left, top, left + width, top + height))
    return erased


def resize(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    """Return the image resized to ``size = (height, width)``, antialiased.

    For some sizes, Pillow 13 resamples vertically first, so ``"bilinear"`` and ``"bicubic"`` pixels
    differ from earlier versions.

    Args:
        image: RGB image.
        size: (height, width) of the result in pixels.
        interpolation: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``.

    Raises:
        ValueError: Unknown interpolation.
    """
    check_interpolation(interpolation)
    return image.resize((size[1], size[0]), _RESAMPLING[interpolation])


def shear_x(image: Image.Image, factor: float) -> Image.Image:
    """Return the image with row ``y`` moved left by ``factor * y`` pixels."""
    return image.transform(image.size, Image.Transform.AFFINE, affine.shear_x(factor))


def shear_y(image: Image.Image, factor: float) -> Image.Image:
    """Return the image with column ``x`` moved up by ``factor * x`` pixels."""
    return image.transform(image.size, Image.Transform.AFFINE, affine.shear_y(factor))


def translate_x(image: Image.Image, pixels: int) -> Image.Image:
    """Return the image moved right by `pixels`."""
    return image.crop((-pixels, 0, image.width - pixels, image.height))


def translate_y(image: Image.Image, pixels: int) -> Image.Image:
    """Return the image moved down by `pixels`."""
    return image.crop((0, -pixels, image.width, image.height - pixels))


def rotate(image: Image.Image, degrees: float) -> Image.Image:
    """Return the image rotated counter-clockwise around its centre, at its size."""
    return image.rotate(degrees)


def adjust_brightness(image: Image.Image, factor: float) -> Image.Image:
    """Blend black (factor 0) with the image (factor 1); factors above 1 brighten it."""
    return ImageEnhance.Brightness(image).enhance(factor)


def adjust_saturation(image: Image.Image, factor: float) -> Image.Image:
    """Blend the grey version (factor 0) with the image (factor 1)."""
    return ImageEnhance.Color(image).enhance(factor)


def adjust_contrast(image: Image.Image, factor: float) -> Image.Image:
    """Blend the mean grey level (factor 0) with the image (factor 1)."""
    return ImageEnhance.Contrast(image).enhance(factor)


def adjust_sharpness(image: Image.Image, factor: float) -> Image.Image:
    """Blend a smoothed version (factor 0) with the image (factor 1)."""
    return ImageEnhance.Sharpness(image).enhance(factor)


def posterize(image: Image.Image, bits: int) -> Image.Image:
    """Keep the `bits` (1 to 8) highest bits of every value.

    Raises:
        ValueError: `bits` is outside 1 to 8.
    """
    check_bits(bits)
    return ImageOps.posterize(image, bits)


def solarize(image: Image.Image, threshold: float) -> Image.Image:
    """Invert all values at or above `threshold`."""
    # Pillow only compares with it, although its annotation is int.
    return ImageOps.solarize(image, threshold)  # type: ignore[arg-type]


def autocontrast(image: Image.Image) -> Image.Image:
    """Stretch every channel linearly to the full range of 0 to 255."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image) -> Image.Image:
    """Map every channel so that its histogram becomes as uniform as possible."""
    return ImageOps.equalize(image)
