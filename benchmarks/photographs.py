"""Real photographs of ImageNet's usual size, cut from larger ones."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (500, 375)  # (width, height) of most ImageNet photographs


def make_photographs(root: Path, count: int = 200, classes: int = 10) -> Path:
    """Write an image folder of JPEG crops, about 100 KB each.

    They are cut from the photographs in the folder that the environment's ``PHOTOGRAPHS`` names, or
    from those that PyPI's foolbox carries.

    Raises:
        FileNotFoundError: There are none.
    """
    files = _originals()
    rng = np.random.default_rng(0)
    for i in range(count):
        with Image.open(files[i % len(files)]) as image:
            left = rng.integers(0, image.width - SIZE[0] + 1)
            top = rng.integers(0, image.height - SIZE[1] + 1)
            crop = image.convert("RGB").crop((left, top, left + SIZE[0], top + SIZE[1]))
        folder = root / f"n{i % classes:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        crop.save(folder / f"{folder.name}_{i}.JPEG", quality=94)
    return root


def _originals() -> list[Path]:
    folder = os.environ.get("PHOTOGRAPHS")
    if folder is None:
        spec = importlib.util.find_spec("foolbox")
        folder = str(Path(spec.origin).parent / "data") if spec and spec.origin else "."
    found = [path for path in sorted(Path(folder).iterdir()) if _is_large(path)]
    if not found:
        raise FileNotFoundError(
            f"there are no JPEG files of {SIZE[0]}x{SIZE[1]} pixels or more in {folder}; "
            f"pip install foolbox, or name a folder of photographs in PHOTOGRAPHS"
        )
    return found


def _is_large(path: Path) -> bool:
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        return False
    with Image.open(path) as image:
        return image.width >= SIZE[0] and image.height >= SIZE[1]
