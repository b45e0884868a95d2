"""Opening images: one definition of what pixels an image file has.

Every image becomes 8-bit RGB before it is augmented:

* grey is replicated; palettes are looked up; CMYK and YCbCr are converted by Pillow;
* transparency is dropped, not blended;
* 16-bit grey keeps its high byte (Pillow alone would clip it to white); 32-bit integer and float
  grey is clipped to 0..255;
* EXIF orientation is ignored, as torchvision's and timm's datasets do;
* of an animation, the first frame is used.
"""

from __future__ import annotations

import io
import os
from os import PathLike
from typing import IO, NamedTuple

import numpy as np
from PIL import Image

from dr_plugins.errors import ImageReadError
from dr_plugins.jpeg import Box, decode_jpeg, decode_jpeg_part

__all__ = ["Part", "Picture", "open_image", "open_picture", "size_of", "to_rgb"]


class Part(NamedTuple):
    """The pixels of a part of an RGB image.

    Attributes:
        pixels: uint8 ``[box height, box width, 3]``.
        box: Which part of the image they are.
        size: (height, width) of the image.
    """

    pixels: np.ndarray
    box: Box
    size: tuple[int, int]


Picture = Image.Image | np.ndarray | Part
"""An RGB image: Pillow's, its pixels as uint8 ``[height, width, 3]``, or what is needed of them."""

File = str | PathLike[str] | IO[bytes]


def size_of(image: Picture) -> tuple[int, int]:
    """(height, width) of an image in pixels; that of the whole image for a part."""
    if isinstance(image, Part):
        return image.size
    if isinstance(image, Image.Image):
        return image.height, image.width
    return image.shape[0], image.shape[1]


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an 8-bit RGB version of any PIL image; see this module for the rules.

    Raises:
        OSError: The image data is damaged (Pillow decodes lazily).
    """
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode.startswith("I;16"):
        high = np.asarray(image).astype(np.uint16) >> 8
        return Image.fromarray(high.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        clipped = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(0, 255)
        return Image.fromarray(clipped.astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def open_picture(
    file: File, key: str, box: Box | None = None, *, as_pixels: bool = True
) -> Picture:
    """Open an image file in the fastest way that gives the pixels of `open_image`.

    Args:
        file: See `open_image`.
        key: Likewise.
        box: The part that is needed, which must not be empty; None for the whole image.
        as_pixels: Give the whole image as an array, not as a PIL image.

    Returns:
        The `Part`, where one can be decoded for itself; else the whole image, RGB, the array
        uint8 ``[height, width, 3]``. Pixels are the caller's own.

    Raises:
        ImageReadError: The file is missing, damaged or no image. Damage outside of a part goes
            unnoticed.
    """
    try:
        data = _read(file)
    except Exception as error:  # archives, too, have errors of their own
        raise _unreadable(key, error) from error
    part = None if box is None else decode_jpeg_part(data, box)
    if box is not None and part is not None:
        return Part(part[0], box, part[1])
    pixels = decode_jpeg(data) if as_pixels else None
    if pixels is not None:
        return pixels
    image = open_image(_Content(data, file), key)
    # A copy, because Pillow's own memory is not for writing.
    return np.array(image) if as_pixels else image


def _read(file: File) -> bytes:
    try:
        if isinstance(file, str | PathLike):
            file = open(file, "rb", buffering=0)  # noqa: SIM115  closed below
        return file.read()
    finally:
        if hasattr(file, "close"):
            file.close()


class _Content(io.BytesIO):
    """A file that was read already; Pillow's messages show it by its name."""

    def __init__(self, data: bytes, file: File) -> None:
        super().__init__(data)
        self._name: object
        if isinstance(file, str | PathLike):
            self._name = os.fspath(file)
        else:
            self._name = getattr(file, "name", file)

    def __repr__(self) -> str:
        return repr(self._name)


def open_image(file: File, key: str) -> Image.Image:
    """Open and decode an image file.

    Args:
        file: Path, or a file opened for reading bytes, which is closed.
        key: The image's key, for error messages.

    Returns:
        RGB image, decoded.

    Raises:
        ImageReadError: The file is missing, damaged or no image.
    """
    try:
        with Image.open(file) as image:
            return to_rgb(image)
    except Exception as error:  # on damaged files, Pillow's decoders raise errors of many types
        raise _unreadable(key, error) from error
    finally:
        if hasattr(file, "close"):
            file.close()


def _unreadable(key: str, error: Exception) -> ImageReadError:
    return ImageReadError(
        f"cannot read image {key!r}: {error}. Restore the file; no other image takes its place."
    )
