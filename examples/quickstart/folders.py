"""Fashion-MNIST as image folders, which every framework reads."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import FashionMNIST
from tqdm import tqdm

__all__ = ["export_folders"]

_COMPLETE = ".complete"


def export_folders(mnist_root: Path, out: Path, train_images: int) -> Path:
    """Write ``out/train`` and ``out/validation``, one folder for each class, as PNG files.

    Args:
        mnist_root: Where `examples.quickstart.data.prepare` put the data.
        out: Directory of the two folders.
        train_images: How many training images to take, the same number of each class.

    Returns:
        `out`.
    """
    if not (out / _COMPLETE).exists():
        _export(FashionMNIST(mnist_root, train=True), out / "train", train_images // 10)
        _export(FashionMNIST(mnist_root, train=False), out / "validation", None)
        (out / _COMPLETE).touch()
    return out


def _export(images: FashionMNIST, out: Path, per_class: int | None) -> None:
    # Frameworks number classes by sorted folder names, and the teacher as the dataset does.
    names = [f"{i}-{name.lower().replace('/', '-')}" for i, name in enumerate(images.classes)]
    names = [name.replace(" ", "-") for name in names]
    written = dict.fromkeys(names, 0)
    for name in names:
        (out / name).mkdir(parents=True, exist_ok=True)
    for number, (image, label) in enumerate(tqdm(images, desc=f"writing {out.name}", unit="img")):
        name = names[label]
        if per_class is None or written[name] < per_class:
            image.save(out / name / f"{name}_{number}.png")
            written[name] += 1
