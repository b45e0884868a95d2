"""Scenes with exact masks: garments of Fashion-MNIST on backgrounds of smooth noise.

Each scene shows two to four garments, two to three times as large as they are stored, tinted, some
behind others. An object's mask is where its pixels lie and are not covered, so it is exact. Each
split has an ``images`` folder, COCO instances in ``SPLIT.json``, and ``classes`` with the class of
each pixel: 0 for the background, otherwise the label plus 1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from PIL import Image
from torchvision.datasets import FashionMNIST

from examples.quickstart.data import Images, load

CLASSES = tuple(FashionMNIST.classes)
SIDE = 128
_COUNTS = {"train": 300, "val": 200}
_OBJECTS, _SIZES = (2, 5), (56, 85)
_LEAST_VISIBLE = 0.3


@dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes:
        pixels: uint8 ``[H, W, 3]``.
        masks: bool ``[N, H, W]``, the visible pixels of each object; no two overlap.
        labels: integers ``[N]``, 0 to 9.
    """

    pixels: np.ndarray
    masks: np.ndarray
    labels: np.ndarray

    def classes(self) -> np.ndarray:
        """Return the class of each pixel, uint8 ``[H, W]``, 0 for the background."""
        return (self.masks * (self.labels + 1)[:, None, None]).sum(0).astype(np.uint8)


def compose(garments: Images, rng: np.random.Generator) -> Scene:
    """Draw a scene."""
    pixels = _background(rng)
    masks: list[np.ndarray] = []
    labels: list[int] = []
    areas: list[int] = []
    for index in rng.integers(len(garments), size=rng.integers(*_OBJECTS)):
        size = int(rng.integers(*_SIZES))
        garment = _resized(torch.from_numpy(garments.pixels[index])[None].float(), size)[0]
        top, left = rng.integers(0, SIDE - size + 1, 2)
        mask = np.zeros((SIDE, SIDE), bool)
        mask[top : top + size, left : left + size] = garment > 25
        tint = rng.uniform(0.6, 1.0, 3)
        pixels[mask] = garment[garment > 25][:, None] * tint
        masks = [other & ~mask for other in masks] + [mask]
        labels.append(int(garments.labels[index]))
        areas.append(mask.sum())
    visible = np.stack(masks)
    # Slivers of covered garments stay in the picture, as background.
    kept = visible.sum((1, 2)) > _LEAST_VISIBLE * np.array(areas)
    return Scene(pixels.astype(np.uint8), visible[kept], np.array(labels)[kept])


def _background(rng: np.random.Generator) -> np.ndarray:
    coarse = torch.from_numpy(rng.uniform(40, 215, (3, 5, 5)))
    smooth = _resized(coarse, SIDE).transpose(1, 2, 0)
    return (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255)


def _resized(channels: torch.Tensor, size: int) -> np.ndarray:
    resized = F.interpolate(channels[None], size=size, mode="bicubic", align_corners=False)
    return resized[0].clamp(0, 255).numpy()


def make_scenes(root: Path) -> Path:
    """Write both splits, unless they are there.

    Args:
        root: Folder of ``images/SPLIT``, ``classes/SPLIT`` and ``SPLIT.json``.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name(f".{root.name}.lock")):
        if not (root / "val.json").exists():
            for number, (split, garments) in enumerate(zip(_COUNTS, load(200, ""), strict=True)):
                _write(root, split, garments, np.random.default_rng(number))
    return root


def _write(root: Path, split: str, garments: Images, rng: np.random.Generator) -> None:
    for kind in ("images", "classes"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number in range(_COUNTS[split]):
        scene, name = compose(garments, rng), f"{number:04}.png"
        Image.fromarray(scene.pixels).save(root / "images" / split / name)
        Image.fromarray(scene.classes()).save(root / "classes" / split / name)
        images.append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
        for mask, label in zip(scene.masks, scene.labels, strict=True):
            objects.append(_annotation(mask, int(label), number, len(objects) + 1))
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": objects, "categories": categories}
    (root / f"{split}.json").write_text(json.dumps(content))


def _annotation(mask: np.ndarray, label: int, image: int, number: int) -> dict[str, Any]:
    from pycocotools.mask import encode

    code = encode(np.asfortranarray(mask, np.uint8))
    (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis))[[0, -1]] for axis in (1, 0))
    return {
        "id": number,
        "image_id": image,
        "category_id": label,
        "bbox": [int(left), int(top), int(right - left + 1), int(bottom - top + 1)],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(code["size"]), "counts": code["counts"].decode()},
    }
