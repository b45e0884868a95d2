"""Pictures of a shard set's images and views, as the bytes of image files."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

from dr_plugins.errors import UnknownImageError
from dr_plugins.images.sources import ImageSource
from dr_plugins.replay.replayer import Replayer
from dr_plugins.shards.reader import ShardSet

THUMBNAIL = 256
"""Longer side of a thumbnail, in pixels."""
ORIGINAL = 1024
"""Longer side of a shown original at most."""


class Pictures:
    """Draws images and views of a shard set by row.

    Args:
        source: The images; some of the set's may be missing unless the set mixes images.
        shards: The shard set.

    Raises:
        DatasetMismatchError: The images have other classes than the set.
        UnknownImageError: An image is not in the set, or the set mixes images and one is missing.

    Example:
        >>> pictures = Pictures(open_source("imagenet/train"), shards)      # doctest: +SKIP
        >>> Path("view.png").write_bytes(pictures.view(0, sample=17))       # doctest: +SKIP
    """

    def __init__(self, source: ImageSource, shards: ShardSet) -> None:
        self._replayer = Replayer(source, shards)
        self._positions = np.full(len(shards), -1, np.int64)
        self._positions[self._replayer.rows] = np.arange(len(self._replayer.rows))

    def __contains__(self, row: int) -> bool:
        return bool(self._positions[row] >= 0)

    def image(self, row: int, longest: int) -> bytes:
        """Return an image as JPEG, its longer side at most `longest` pixels.

        Raises:
            UnknownImageError: The image is in the set, but not among the images.
            ImageReadError: It cannot be read.
            ImageChangedError: It is not the one that was reinforced.
        """
        image, _ = self._replayer.load(self._position(row))
        assert isinstance(image, Image.Image)
        image.thumbnail((longest, longest))
        return _encoded(image, "JPEG", quality=88)

    def view(self, row: int, sample: int) -> bytes:
        """Return a view as PNG: the pixels that the teacher saw; raises the errors of `image`."""
        return _encoded(self._view(row, sample), "PNG", compress_level=1)

    def sheet(self, row: int, side: int) -> bytes:
        """Return all views of an image in one JPEG, `sheet_columns` in a row.

        Args:
            row: The image.
            side: Width of a view in pixels, unless it is smaller.

        Raises the errors of `image`.
        """
        samples = self._replayer.shards.manifest.samples
        height, width = self._replayer.policy.view_size
        side = min(side, width)
        size = (side, round(side * height / width))
        columns = sheet_columns(samples)
        sheet = Image.new("RGB", (columns * size[0], -(-samples // columns) * size[1]))
        for sample in range(samples):
            view = self._view(row, sample).resize(size, Image.Resampling.BICUBIC)
            sheet.paste(view, (sample % columns * size[0], sample // columns * size[1]))
        return _encoded(sheet, "JPEG", quality=85)

    def _view(self, row: int, sample: int) -> Image.Image:
        record = self._replayer.shards.read(np.array([row]), np.array([sample]))
        (params,) = self._replayer.policy.decode(record)
        view, _ = self._replayer.view(self._position(row), params)
        return Image.fromarray(view.permute(1, 2, 0).numpy())

    def _position(self, row: int) -> int:
        position = int(self._positions[row])
        if position < 0:
            key = self._replayer.shards.keys[row]
            raise UnknownImageError(f"image {key!r} is in the shard set, but not among the images")
        return position


def sheet_columns(samples: int) -> int:
    """Return the number of views in a row of a sheet: about as many as there are rows."""
    return math.ceil(math.sqrt(samples))


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
