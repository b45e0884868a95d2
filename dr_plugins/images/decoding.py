"""Opening images: the one definition of an image file's pixels.

Every image becomes 8-bit RGB before it is augmented:

* grey is replicated; palettes are looked up; CMYK and YCbCr are converted by Pillow;
* transparency is dropped, not blended;
* 16-bit grey keeps its high byte (Pillow alone would clip it to white); 32-bit integer and float
  grey is clipped to 0..255, and an error if it was meant for another range;
* EXIF orientation is ignored, as torchvision's and timm's datasets do;
* of an animation, the first frame is used;
* a truncated or damaged file is an error, regardless of Pillow's settings in the process.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from os import PathLike
from typing import IO

import numpy as np
from PIL import Image, ImageFile

from dr_plugins.errors import ImageReadError
from dr_plugins.images.jpeg import decode_jpeg
from dr_plugins.utils.files import regular_only

Picture = Image.Image | np.ndarray
"""An RGB image: Pillow's, or its pixels as uint8 ``[height, width, 3]``."""

File = str | PathLike[str] | IO[bytes]


class _StrictDecoding:
    """Makes Pillow reject damaged files, regardless of ``ImageFile.LOAD_TRUNCATED_IMAGES``.

    With that setting, Pillow would fill missing parts with grey. It is global to the process: it is
    off while any thread is inside, and the last thread to leave restores it.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, False
        os.register_at_fork(after_in_child=self._forget_other_threads)

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = ImageFile.LOAD_TRUNCATED_IMAGES
            self._inside += 1
            ImageFile.LOAD_TRUNCATED_IMAGES = False

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                ImageFile.LOAD_TRUNCATED_IMAGES = self._before

    def _forget_other_threads(self) -> None:
        """Reset the count in a forked process, which has only one thread."""
        if self._inside:
            ImageFile.LOAD_TRUNCATED_IMAGES = self._before
        self._lock, self._inside = threading.Lock(), 0


strict_decoding = _StrictDecoding()
"""Context in which Pillow either decodes a file completely or raises an error."""


def size_of(image: Picture) -> tuple[int, int]:
    """(height, width) of an image in pixels."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    return image.shape[0], image.shape[1]


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an 8-bit RGB version of any PIL image; see this module for the rules.

    Raises:
        OSError: The image data is damaged (Pillow decodes lazily).
        ValueError: Its 32-bit grey values are within [0, 1], or mostly not within [0, 255].
    """
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode.startswith("I;16"):
        high = np.asarray(image).astype(np.uint16) >> 8
        return Image.fromarray(high.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_grey(np.asarray(image, dtype=np.float64))).convert("RGB")
    return image.convert("RGB")


def _grey(values: np.ndarray) -> np.ndarray:
    """Clip 32-bit values, unless nothing would be left of the image: black or white."""
    values = np.nan_to_num(values)
    least, most = values.min(), values.max()
    clipped = values.clip(0, 255)
    is_fraction = least >= 0 and most <= 1 and bool((values % 1).any())
    if is_fraction or np.count_nonzero(clipped != values) > values.size / 2:
        raise ValueError(
            f"its 32-bit values are from {least:g} to {most:g}; expected 0 to 255. Save it with 8 "
            f"or 16 bits"
        )
    return clipped.astype(np.uint8)


def open_picture(file: File, key: str, *, as_pixels: bool = True) -> Picture:
    """Open an image file in the fastest way that yields the pixels of `open_image`.

    Args:
        file: See `open_image`.
        key: See `open_image`.
        as_pixels: Return an array, not a PIL image.

    Returns:
        RGB image, or writable uint8 array ``[height, width, 3]``.

    Raises:
        ImageReadError: The file is missing, damaged or not an image.
    """
    if not as_pixels:
        return open_image(file, key)
    try:
        content = _read(file)
        pixels = decode_jpeg(content.getvalue())
        # A copy, because Pillow's own memory is read-only.
        return np.array(_decode(content)) if pixels is None else pixels
    except Exception as error:
        raise _unreadable(key, error) from error


def open_image(file: File, key: str) -> Image.Image:
    """Open and decode an image file.

    Args:
        file: Path of a regular file, or an open binary file, which is closed.
        key: The image's key, for error messages.

    Returns:
        RGB image, decoded.

    Raises:
        ImageReadError: The file is missing, damaged or not an image.
    """
    try:
        return _decode(_read(file))
    # For damaged files, Pillow's decoders raise errors of many types, and archives raise others.
    except Exception as error:
        raise _unreadable(key, error) from error


def check_image(file: File, key: str) -> None:
    """Check the beginning and the end of an image file; decode it if that is not conclusive.

    Args:
        file: See `open_image`.
        key: See `open_image`.

    Raises:
        ImageReadError: The file is missing, truncated, or not an image. Damage in its middle may
            remain undetected.
    """
    try:
        with _opened(file) as opened:
            if not _seems_whole(opened):
                opened.seek(0)
                _decode(_read(opened))
    except Exception as error:
        raise _unreadable(key, error) from error


class _Content(io.BytesIO):
    """The content of a file; Pillow's messages show it by the file's name."""

    def __init__(self, data: bytes, name: object) -> None:
        super().__init__(data)
        self._name = name

    def __repr__(self) -> str:
        return repr(self._name)


def _opened(file: File) -> IO[bytes]:
    if isinstance(file, str | PathLike):
        return open(file, "rb", opener=regular_only)
    return file


def _read(file: File) -> _Content:
    """Read a file and close it."""
    with contextlib.closing(_opened(file)) as opened:
        return _Content(opened.read(), getattr(opened, "name", opened))


def _decode(content: _Content) -> Image.Image:
    with strict_decoding, Image.open(content) as image:
        return to_rgb(image)


_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


def _seems_whole(file: IO[bytes]) -> bool:
    """Whether a file begins with an image's headers and ends with its format's end marker."""
    with contextlib.suppress(Exception), strict_decoding, Image.open(file) as image:
        end = _ENDS.get(image.format or "")
        if end is not None:
            file.seek(-min(64, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return file.read().rstrip(b"\0").endswith(end)  # some cameras append zeros
    return False


def _unreadable(key: str, error: Exception) -> ImageReadError:
    return ImageReadError(
        f"cannot read image {key!r}: {error}. Restore the file; no other image is substituted."
    )
