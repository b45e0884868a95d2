"""Tiny stand-ins for torchvision's downloads, in the layout that its classes read."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR100, FashionMNIST, Flowers102

from tests.tiny import photograph


def make_cifar100(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    folder = root / CIFAR100.base_folder
    folder.mkdir(parents=True)
    for split, count in (("train", 9), ("test", 6)):
        rng = np.random.default_rng(count)
        labels = [i % 3 for i in range(count)]
        data = {"data": rng.integers(0, 256, (count, 3072), np.uint8), "fine_labels": labels}
        (folder / split).write_bytes(pickle.dumps(data))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "bear", "can"]}))
    return root


def make_fashion_mnist(root: Path) -> Path:
    folder = root / FashionMNIST.__name__ / "raw"
    folder.mkdir(parents=True)
    for split, count in (("train", 9), ("t10k", 6)):
        rng = np.random.default_rng(count)
        labels = np.array([i % 10 for i in range(count)], np.uint8)
        _write_idx(folder / f"{split}-labels-idx1-ubyte", labels)
        _write_idx(
            folder / f"{split}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28), np.uint8)
        )
    return root


def make_food101(root: Path) -> Path:
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for split, numbers in (("train", (1, 2, 3)), ("test", (4,))):
        names = {dish: [f"{dish}/{n}" for n in numbers] for dish in ("apple_pie", "waffles")}
        (folder / "meta" / f"{split}.json").write_text(json.dumps(names))
        for i, name in enumerate(name for dish in names.values() for name in dish):
            path = folder / "images" / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            photograph(i, 40, 50).save(path)
    return root


def make_flowers102(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    io = pytest.importorskip("scipy.io")
    monkeypatch.setattr(Flowers102, "_check_integrity", lambda _: True)
    folder = root / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    splits = {"trnid": [1, 4, 5], "valid": [2], "tstid": [3, 6]}
    io.savemat(folder / "setid.mat", splits)
    io.savemat(folder / "imagelabels.mat", {"labels": [1, 2, 102, 1, 2, 3]})
    for i in range(1, 7):
        photograph(i, 40, 50).save(folder / "jpg" / f"image_{i:05d}.jpg")
    return root


def _write_idx(path: Path, array: np.ndarray) -> None:
    header = np.array([0x0800 + array.ndim, *array.shape], ">i4").tobytes()
    path.write_bytes(header + array.tobytes())
