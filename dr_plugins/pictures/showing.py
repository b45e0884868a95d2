"""A picture of some images of a shard set, for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

from PIL import Image

from dr_plugins.images.sources import ImageSource, open_source
from dr_plugins.pictures.sheet import draw_sheet
from dr_plugins.pictures.stored import StoredPictures
from dr_plugins.shards.reader import ShardSet


def show(
    shards: ShardSet,
    keys: str | Sequence[str],
    images: str | PathLike[str] | ImageSource,
    *,
    views: int = 6,
) -> Image.Image:
    """Draw images with their crops, views and answers; notebooks show what this returns.

    Args:
        shards: The set.
        keys: One image, or several.
        images: The images, or what `open_source` opens.
        views: Views of each image.

    Returns:
        See `draw_sheet`, which raises the same errors.

    Example:
        >>> show(shards, "n01440764/n01440764_10026.JPEG", "imagenet/train")  # doctest: +SKIP
    """
    source = images if isinstance(images, ImageSource) else open_source(images)
    chosen = [keys] if isinstance(keys, str) else list(keys)
    rows = shards.keys.rows(chosen).tolist()
    return draw_sheet(StoredPictures(source, shards), rows, views=views)
