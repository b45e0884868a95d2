"""JPEG decoding that is faster than Pillow's, if simplejpeg is installed and the pixels agree.

simplejpeg decodes directly into an array, which saves the copy out of Pillow's own memory. Both use
libjpeg-turbo, but different builds of it: before the first image, both decode a few small pictures,
and if a pixel differs, simplejpeg is not used. simplejpeg treats every warning of libjpeg-turbo as
an error, and Pillow handles all files that simplejpeg rejects. So whether a damaged file is
rejected, and its pixels if it is accepted, do not depend on simplejpeg.
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

_logger = logging.getLogger(__name__)

_START = b"\xff\xd8\xff"
# Others, such as CMYK and RGB without conversion, are rare and have different conventions.
_COLORSPACES = ("YCbCr", "Gray")


def decode_jpeg(data: bytes) -> np.ndarray | None:
    """Decode a JPEG file.

    Args:
        data: The whole file, of any format.

    Returns:
        RGB as uint8 ``[height, width, 3]``; None for everything that Pillow should handle: other
        formats, rare kinds of JPEG, very large or damaged files, and all files if simplejpeg is
        missing or differs.
    """
    if not data.startswith(_START) or not _is_pillows():
        return None
    return _decode(data)


def _decode(data: bytes) -> np.ndarray | None:
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        limit = Image.MAX_IMAGE_PIXELS
        if colorspace not in _COLORSPACES or (limit is not None and height * width > limit):
            return None
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, strict=True)
    except (KeyError, ValueError):  # KeyError for rare subsamplings
        return None
    return pixels


@functools.cache
def _is_pillows() -> bool:
    """Whether simplejpeg yields Pillow's pixels on this machine."""
    if simplejpeg is None:
        return False
    for name, data in _samples():
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(image.convert("RGB"))
        found = _decode(data)
        if found is None or not np.array_equal(found, expected):
            _logger.warning(
                "simplejpeg and Pillow decode %s to different pixels; falling back to Pillow, "
                "which is slower. Install versions of both that use the same libjpeg-turbo.",
                name,
            )
            return False
    return True


def _samples() -> Iterator[tuple[str, bytes]]:
    """Small pictures, smooth and rough, in each kind of JPEG that is common for photographs."""
    rng = np.random.default_rng(0)
    height, width = 43, 61
    rough = rng.integers(0, 256, (6, 7, 3), np.uint8)
    smooth = Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
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
