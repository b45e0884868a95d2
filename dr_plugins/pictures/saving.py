"""Writing a picture to a file."""

from __future__ import annotations

import struct
from pathlib import Path

from PIL import Image

from dr_plugins.errors import OutputError


def save(image: Image.Image, path: Path) -> None:
    """Write a picture; the file's ending selects the format.

    Raises:
        OutputError: It cannot be written, or its ending is unknown.
    """
    try:
        image.save(path, quality=92)  # of JPEG files
    # The last two by formats of small pictures, in newer and older versions of Pillow.
    except (OSError, ValueError, OverflowError, struct.error) as error:
        raise OutputError(
            f"cannot write {path}, a picture of {image.width} x {image.height} pixels: {error}. "
            f"Choose a writable directory, and an ending such as .png, which has no limit of size"
        ) from error
