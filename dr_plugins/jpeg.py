"""JPEG decoding by simplejpeg, where it is installed and gives the pixels that Pillow gives.

It writes into an array straight away, which spares the copy out of Pillow's own memory. Both use
libjpeg-turbo, but not the same build of it: a few small pictures are decoded by both before the
first image, and where one differs, Pillow decodes everything.
"""

from __future__ import annotations

import functools
import io
import logging
from collections.abc import Iterator

import numpy as np
from PIL import Image

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

__all__ = ["decode_jpeg"]

_logger = logging.getLogger(__name__)

_START = b"\xff\xd8\xff"
# Others, such as CMYK and RGB without conversion, are rare and have conventions of their own.
_COLORSPACES = ("YCbCr", "Gray")


def decode_jpeg(data: bytes) -> np.ndarray | None:
    """Decode a JPEG file.

    Args:
        data: The whole file, of any format.

    Returns:
        RGB as uint8 ``[height, width, 3]``; None for all that Pillow should judge: other formats,
        rare kinds of JPEG, very large or damaged files, and everything where simplejpeg is missing
        or differs.
    """
    if not data.startswith(_START) or not _is_exact():
        return None
    return _decode(data)


def _decode(data: bytes) -> np.ndarray | None:
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        limit = Image.MAX_IMAGE_PIXELS
        if colorspace not in _COLORSPACES or (limit is not None and height * width > limit):
            return None
        pixels: np.ndarray = simplejpeg.decode_jpeg(data)
        return pixels
    except ValueError:
        return None


@functools.cache
def _is_exact() -> bool:
    """Whether simplejpeg gives Pillow's pixels on this machine."""
    if simplejpeg is None:
        return False
    for name, data in _samples():
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(image.convert("RGB"))
        found = _decode(data)
        if found is None or not np.array_equal(found, expected):
            _logger.warning(
                "simplejpeg decodes %s otherwise than Pillow does; Pillow decodes all images, "
                "which is slower. Install versions of both that use the same libjpeg-turbo.",
                name,
            )
            return False
    return True


def _samples() -> Iterator[tuple[str, bytes]]:
    """Small pictures, smooth and rough, of each kind that photographs are stored in."""
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (6, 7, 3), np.uint8)
    smooth = Image.fromarray(rough).resize((61, 43), Image.Resampling.BICUBIC)
    noise = Image.fromarray(rng.integers(0, 256, (43, 61, 3), np.uint8))
    for kind, options in (
        ("4:4:4", {"subsampling": 0}),
        ("4:2:2", {"subsampling": 1}),
        ("4:2:0", {"subsampling": 2}),
        ("progressive 4:2:0", {"subsampling": 2, "progressive": True}),
        ("grey", {}),
    ):
        for picture in (smooth, noise):
            buffer = io.BytesIO()
            picture.convert("L" if kind == "grey" else "RGB").save(
                buffer, "JPEG", quality=80, **options
            )
            yield f"a {kind} JPEG", buffer.getvalue()
