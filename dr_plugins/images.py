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

__all__ = ["Part", "Picture", "open_image", "open_part", "open_pixels", "size_of", "to_rgb"]


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


def open_pixels(file: File, key: str) -> np.ndarray:
    """Open and decode an image file into an array.

    The pixels are those of `open_image`; JPEG files may be decoded faster.

    Args:
        file: See `open_image`.
        key: Likewise.

    Returns:
        RGB as uint8 ``[height, width, 3]``, the caller's own.

    Raises:
        ImageReadError: The file is missing, damaged or no image.
    """
    try:
        data = _read(file)
    except OSError as error:
        raise _unreadable(key, error) from error
    pixels = decode_jpeg(data)
    # A copy, because Pillow's own memory is not for writing.
    return np.array(open_image(_Content(data, file), key)) if pixels is None else pixels


def open_part(file: File, box: Box) -> Part | None:
    """Open an image file and decode a part of it, with the pixels of `open_image`.

    Args:
        file: See `open_image`.
        box: The part.

    Returns:
        None where the whole image must be opened, which also tells what is wrong with it.
    """
    try:
        decoded = decode_jpeg_part(_read(file), box)
    except OSError:
        return None
    return None if decoded is None else Part(decoded[0], box, decoded[1])


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
