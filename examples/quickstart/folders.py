"""Fashion-MNIST as image folders, which every framework reads."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torchvision.datasets import FashionMNIST
from tqdm import tqdm

from examples.quickstart.data import Images

_COMPLETE = ".complete"
# Frameworks number classes by sorted folder names, and the teacher as the dataset does.
_NAMES = [
    f"{i}-{name.lower().replace('/', '-').replace(' ', '-')}"
    for i, name in enumerate(FashionMNIST.classes)
]


def export_folders(train: Images, test: Images, out: Path) -> Path:
    """Write ``out/train`` and ``out/validation``, one folder for each class, as PNG files.

    Args:
        train: Training images.
        test: Test images.
        out: Directory of the two folders.

    Returns:
        `out`.
    """
    if not (out / _COMPLETE).exists():
        _export(train, out / "train")
        _export(test, out / "validation")
        (out / _COMPLETE).touch()
    return out


def _export(images: Images, out: Path) -> None:
    for name in _NAMES:
        (out / name).mkdir(parents=True, exist_ok=True)
    rows = zip(images.pixels, images.labels, images.numbers, strict=True)
    for pixels, label, number in tqdm(rows, f"writing {out.name}", len(images), unit="img"):
        name = _NAMES[label]
        Image.fromarray(pixels).save(out / name / f"{name}_{number}.png")
