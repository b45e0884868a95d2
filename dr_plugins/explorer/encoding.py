"""Images and views of a shard set as the bytes of image files."""

from __future__ import annotations

import io
import math

from PIL import Image

from dr_plugins.pictures import StoredPictures

THUMBNAIL = 256
"""Longer side of a thumbnail, in pixels."""
ORIGINAL = 1024
"""Longer side of an original, in pixels; larger ones are made smaller."""


def encoded_image(pictures: StoredPictures, row: int, longest: int) -> bytes:
    """Return an image as JPEG, its longer side at most `longest` pixels.

    Raises:
        UnknownImageError: It is in the set, but not among the images.
        ImageReadError: It cannot be read.
        ImageChangedError: It is not the one that was reinforced.
    """
    image = pictures.image(row)
    image.thumbnail((longest, longest))
    return _encoded(image, "JPEG", quality=88)


def encoded_view(pictures: StoredPictures, row: int, sample: int) -> bytes:
    """Return a view as PNG, without loss; raises the errors of `encoded_image`."""
    return _encoded(pictures.view(row, sample), "PNG", compress_level=1)


def encoded_sheet(pictures: StoredPictures, row: int, side: int) -> bytes:
    """Return all views of an image in one JPEG, `sheet_columns` in a row.

    Args:
        pictures: The images.
        row: The image.
        side: Width of a view in pixels, unless it is smaller.

    Raises the errors of `encoded_image`.
    """
    samples = pictures.shards.manifest.samples
    height, width = pictures.view_size
    side = min(side, width)
    size = (side, round(side * height / width))
    columns = sheet_columns(samples)
    sheet = Image.new("RGB", (columns * size[0], -(-samples // columns) * size[1]))
    for sample in range(samples):
        view = pictures.view(row, sample).resize(size, Image.Resampling.BICUBIC)
        sheet.paste(view, (sample % columns * size[0], sample // columns * size[1]))
    return _encoded(sheet, "JPEG", quality=85)


def sheet_columns(samples: int) -> int:
    """Return the number of views in a row of a sheet: about as many as there are rows."""
    return math.ceil(math.sqrt(samples))


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
