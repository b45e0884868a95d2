"""The images of a shard set and their stored views, as Pillow's images."""

from __future__ import annotations

import numpy as np
from PIL import Image

from dr_plugins.errors import UnknownImageError
from dr_plugins.images.decoding import Picture
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import AugmentParams
from dr_plugins.replay.replayer import Replayer, named_as
from dr_plugins.shards.reader import ShardSet

# Decoded images: the one whose views are drawn, a partner, and the partner's own partner, with
# which it is compared with its fingerprint.
_KEPT = 3


class StoredPictures:
    """Shows images and views of a shard set, by row.

    Each image is compared with its fingerprint when it is first shown.

    Args:
        source: The images; some of the set's may be missing unless the set mixes images, and others
            may be among them, as in the folder of which the set is a subset.
        shards: The shard set.

    Attributes:
        shards: The shard set.

    Raises:
        DatasetMismatchError: The images have other classes than the set.
        UnknownImageError: No image is in the set, or the set mixes images and one is missing.

    Example:
        >>> pictures = StoredPictures(open_source("imagenet/train"), shards)  # doctest: +SKIP
        >>> row = shards.keys.row("n01440764/n01440764_10026.JPEG")         # doctest: +SKIP
        >>> pictures.view(row, 17).save("view.png")                         # doctest: +SKIP
    """

    def __init__(self, source: ImageSource, shards: ShardSet) -> None:
        self.shards = shards
        self._replayer = _Keeping(_of_set(source, shards), shards)
        self._positions = np.full(len(shards), -1, np.int64)
        self._positions[self._replayer.rows] = np.arange(len(self._replayer.rows))
        self._compared: set[int] = set()

    @property
    def view_size(self) -> tuple[int, int]:
        """(height, width) of the views, in pixels."""
        return self._replayer.policy.view_size

    def __contains__(self, row: int) -> bool:
        return bool(self._positions[row] >= 0)

    @property
    def rows(self) -> np.ndarray:
        """The rows whose images are there, ascending, int64."""
        return np.flatnonzero(self._positions >= 0)

    def image(self, row: int) -> Image.Image:
        """Return the image of a row.

        Raises:
            UnknownImageError: It is in the set, but not among the images.
            ImageReadError: It cannot be read.
            ImageChangedError: It is not the one that was reinforced.
        """
        image, _ = self._replayer.load(self._compare(row))
        assert isinstance(image, Image.Image)
        return image.copy()

    def view(self, row: int, sample: int) -> Image.Image:
        """Return a view, the pixels that the teacher saw; raises the errors of `image`."""
        params = self.params(row, sample)
        view, _ = self._replayer.view(self._compare(row), params)
        if params.partner is not None:
            self._compare(params.partner)
        return Image.fromarray(view.permute(1, 2, 0).numpy())

    def params(self, row: int, sample: int) -> AugmentParams:
        """Return the parameters of a view."""
        record = self.shards.read(np.array([row]), np.array([sample]))
        return self._replayer.policy.decode(record)[0]

    def outline(self, row: int, sample: int, image: Image.Image) -> np.ndarray:
        """Return the corners of a view in its image: (x, y) in pixels, float64 ``[4, 2]``."""
        params = self.params(row, sample)
        return self._replayer.policy.geometry(params.view, (image.height, image.width)).outline()

    def _compare(self, row: int) -> int:
        """Check that an image is the one that was reinforced; return its position."""
        position = int(self._positions[row])
        if position < 0:
            raise UnknownImageError(
                f"image {self.shards.keys[row]!r} is in the shard set, but not among the images"
            )
        if row not in self._compared:
            self._replayer.compare(position)
            self._compared.add(row)
        return position


def _of_set(source: ImageSource, shards: ShardSet) -> ImageSource:
    """The images that the set has; all if it has none of them, for `Replayer` to name some."""
    source = named_as(source, shards)
    known = source.without(key for key in source.keys if key not in shards.keys)
    return known if len(known) else source


class _Keeping(Replayer):
    """Decodes an image once for all views that are drawn one after the other."""

    def __init__(self, source: ImageSource, shards: ShardSet) -> None:
        super().__init__(source, shards)
        self._kept: dict[tuple[int, bool], tuple[Picture, int]] = {}

    def load(self, index: int, *, as_pixels: bool = False) -> tuple[Picture, int]:
        wanted = index, as_pixels
        found = self._kept.pop(wanted, None) or super().load(index, as_pixels=as_pixels)
        self._kept[wanted] = found  # the latest is the last
        while len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]
        return found
