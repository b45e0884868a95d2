"""Real photographs of ImageNet's usual size, cut from those that PyPI's foolbox carries."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["make_photographs"]

SIZE = (500, 375)  # (width, height) of most ImageNet photographs


def make_photographs(root: Path, count: int = 200, classes: int = 10) -> Path:
    """Write an image folder of JPEG crops, about 100 KB each.

    Raises:
        ModuleNotFoundError: foolbox is not installed.
    """
    spec = importlib.util.find_spec("foolbox")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the photographs come with foolbox: pip install foolbox")
    files = sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg"))
    rng = np.random.default_rng(0)
    for i in range(count):
        with Image.open(files[i % len(files)]) as image:
            left, top = rng.integers(0, 13), rng.integers(0, image.height - SIZE[1] + 1)
            crop = image.crop((left, top, left + SIZE[0], top + SIZE[1]))
        folder = root / f"n{i % classes:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        crop.save(folder / f"{folder.name}_{i}.JPEG", quality=94)
    return root
