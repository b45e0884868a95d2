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

from os import PathLike
from typing import IO

import numpy as np
from PIL import Image

from dr_plugins.errors import ImageReadError

__all__ = ["open_image", "to_rgb"]


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


def open_image(file: str | PathLike[str] | IO[bytes], key: str) -> Image.Image:
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
        raise ImageReadError(
            f"cannot read image {key!r}: {error}. Restore the file; no other image takes its place."
        ) from error
    finally:
        if hasattr(file, "close"):
            file.close()
