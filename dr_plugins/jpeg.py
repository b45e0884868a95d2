"""JPEG decoding that is faster than Pillow's, where it is installed and gives Pillow's pixels.

simplejpeg decodes whole files straight into an array, which spares the copy out of Pillow's own
memory. nvImageCodec, of which only the CPU's decoder is used, computes no more than the part of an
image that is asked for. Both use libjpeg-turbo, as Pillow does, but builds of their own: a few
small pictures are decoded by Pillow, too, before the first image, and a library that differs in a
pixel is not used.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

__all__ = ["Box", "decode_jpeg", "decode_jpeg_part", "decodes_parts"]

_logger = logging.getLogger(__name__)

Box = tuple[int, int, int, int]
"""A part of an image: (top, left, height, width) in pixels."""

_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
# Others, such as CMYK and RGB without conversion, are rare and have conventions of their own.
_COLORSPACES = ("YCbCr", "Gray")
# libjpeg-turbo interpolates the colours of a single column otherwise than in a whole image.
_LEAST_WIDTH = 2
# The headers of baseline and extended frames, whose blocks are decoded each for itself. Those of a
# progressive file with scans missing are smoothed with their neighbours, otherwise in a part.
_SEQUENTIAL = (0xC0, 0xC1)
# What may come before: Huffman and quantisation tables, restart interval, applications, comment.
_SEGMENTS = (0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE)
_import_lock = threading.Lock()


def decode_jpeg(data: bytes) -> np.ndarray | None:
    """Decode a JPEG file.

    Args:
        data: The whole file, of any format.

    Returns:
        RGB as uint8 ``[height, width, 3]``; None for all that Pillow should judge: other formats,
        rare kinds of JPEG, very large or damaged files, and everything where simplejpeg is missing
        or differs.
    """
    if not data.startswith(_START) or not _decodes_whole():
        return None
    return _decode(data)


def decode_jpeg_part(data: bytes, box: Box) -> tuple[np.ndarray, tuple[int, int]] | None:
    """Decode a part of a JPEG file.

    Damage elsewhere in the file goes unnoticed, except that the file must have an end.

    Args:
        data: The whole file, of any format.
        box: The part; it must not be empty.

    Returns:
        The part's pixels, RGB as uint8 ``[box height, box width, 3]``, and (height, width) of the
        image. None where the whole should be decoded instead: for all that `decode_jpeg` leaves to
        Pillow, for progressive files, for parts that are one pixel wide or leave the image, and
        where nvImageCodec is missing or differs.
    """
    if not data.startswith(_START) or not data.endswith(_END) or not decodes_parts():
        return None
    size, (top, left, height, width) = _size(data), box
    if size is None or top + height > size[0] or left + width > size[1] or width < _LEAST_WIDTH:
        return None
    pixels = _decode_part(data, box) if _is_sequential(data) else None
    return None if pixels is None else (pixels, size)


def _decode(data: bytes) -> np.ndarray | None:
    if _size(data) is None:
        return None
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(data)
        return pixels
    except ValueError:
        return None


def _decode_part(data: bytes, box: Box) -> np.ndarray | None:
    decoder = _part_decoder()
    assert decoder is not None
    try:
        return decoder.decode(data, box)
    except RuntimeError:
        return None


def _size(data: bytes) -> tuple[int, int] | None:
    """(height, width); None for what Pillow should judge."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except (KeyError, ValueError):  # the first for rare subsamplings
        return None
    limit = Image.MAX_IMAGE_PIXELS
    if colorspace not in _COLORSPACES or (limit is not None and height * width > limit):
        return None
    return height, width


def _is_sequential(data: bytes) -> bool:
    """Whether the frame is baseline or extended; False also for what is hard to tell."""
    at = len(_START) - 1
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker = data[at + 1]
        if marker not in _SEGMENTS:
            return marker in _SEQUENTIAL
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


class _PartDecoder(threading.local):
    """nvImageCodec's decoder for parts; each thread has its own."""

    def __init__(self, nvimgcodec: Any) -> None:
        self._nvimgcodec = nvimgcodec
        self._decoder = nvimgcodec.Decoder(
            device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
            max_num_cpu_threads=1,  # that of the caller
            backends=[nvimgcodec.Backend(nvimgcodec.CPU_ONLY)],
        )
        self._params = nvimgcodec.DecodeParams(apply_exif_orientation=False)

    def decode(self, data: bytes, box: Box) -> np.ndarray | None:
        """Decode a part; `RuntimeError` if that fails."""
        top, left, height, width = box
        region = self._nvimgcodec.Region(top, left, top + height, left + width)
        part = self._nvimgcodec.CodeStream(data).get_sub_code_stream(region=region)
        decoded = self._decoder.decode(part, params=self._params)
        # np.asarray would ask for `__array_interface__`, which leaks 32 bytes each time.
        return None if decoded is None else decoded.__array__()


@functools.cache
def _part_decoder() -> _PartDecoder | None:
    try:
        with _import_lock, _silent():
            from nvidia import nvimgcodec  # type: ignore[import-untyped]
        return _PartDecoder(nvimgcodec)
    except (ImportError, AttributeError):  # missing, or too old
        return None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Send what is written to the standard error, also by libraries, to nowhere.

    nvImageCodec tells there that the GPU's decoders, which nobody asked for, are not installed.
    """
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (AttributeError, OSError, ValueError):  # there is none, or it is closed
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@functools.cache
def _decodes_whole() -> bool:
    """Whether simplejpeg gives Pillow's pixels on this machine."""
    if simplejpeg is None:
        return False
    return _agrees("simplejpeg", _decode, "Pillow decodes all images")


@functools.cache
def decodes_parts() -> bool:
    """Whether nvImageCodec is installed and gives Pillow's pixels on this machine."""
    if simplejpeg is None or _part_decoder() is None:
        return False

    def decode(data: bytes) -> np.ndarray | None:
        return _joined(functools.partial(_decode_part, data), *_SAMPLE_SIZE)

    return _agrees("nvImageCodec", decode, "whole images are decoded")


def _agrees(library: str, decode: Callable[[bytes], np.ndarray | None], otherwise: str) -> bool:
    for name, data in _samples():
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(image.convert("RGB"))
        found = decode(data)
        if found is None or not np.array_equal(found, expected):
            _logger.warning(
                "%s decodes %s otherwise than Pillow does; %s, which is slower. Install versions "
                "of both that use the same libjpeg-turbo.",
                library,
                name,
                otherwise,
            )
            return False
    return True


def _joined(
    decode_part: Callable[[Box], np.ndarray | None], height: int, width: int
) -> np.ndarray | None:
    """Put an image together from parts that begin and end in, at and beside its blocks."""
    whole = np.zeros((height, width, 3), np.uint8)
    rows, columns = (0, 8, 17, 31, height), (0, _LEAST_WIDTH, 33, width)
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            part = decode_part((top, left, bottom - top, right - left))
            if part is None:
                return None
            whole[top:bottom, left:right] = part
    return whole


_SAMPLE_SIZE = 43, 61


def _samples() -> Iterator[tuple[str, bytes]]:
    """Small pictures, smooth and rough, of each kind that photographs are stored in."""
    rng = np.random.default_rng(0)
    height, width = _SAMPLE_SIZE
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
