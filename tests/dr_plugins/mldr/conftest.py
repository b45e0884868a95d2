"""Archives as ml-dr writes them, made with torch, tarfile and nothing of this package."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dr_plugins.images.sources import open_source
from dr_plugins.mldr import ImageOrder, ImportReport

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "mldr_golden"
NORMALIZE = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CROPFLIP = {
    "uint8": {"enable": True},
    "random_resized_crop": {"enable": True, "size": 32},
    "random_horizontal_flip": {"enable": True, "p": 0.5},
    "to_tensor": {"enable": True},
    "normalize": NORMALIZE,
}
CLASSES = 4


@pytest.fixture
def golden() -> Path:
    if not GOLDEN.is_dir():
        pytest.skip("needs the archives made by running ml-dr, in ../shared/mldr_golden")
    return GOLDEN


def config_of(augmentation: dict[str, Any], **reinforce: Any) -> dict[str, Any]:
    values = {"num_samples": 3, "topk": 2, "compress": True, "image_augmentation": augmentation}
    return {"dataset": "imagenet", "num_classes": CLASSES, "reinforce": {**values, **reinforce}}


def saved(content: Any, protocol: int = 4) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, pickle_protocol=protocol)
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def cropflip_content(index: int, label: int, samples: int = 3, seed: int = 0) -> Any:
    """What ml-dr would store of a 40x48 image (height x width) whose teacher is mostly right."""
    rng = np.random.default_rng([seed, index])
    reinforcements = []
    for _ in range(samples):
        top, left = rng.integers(0, 8, 2).tolist()
        box = (top, left, int(rng.integers(8, 33)), int(rng.integers(8, 41)))
        high = float(np.float32(rng.uniform(0.5, 0.9)))
        answer = ([1 - high, high], [(label + 1) % CLASSES, label])
        reinforcements.append({"params": [box, bool(rng.integers(2))], "prob": answer})
    return index, reinforcements


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve images of 40x48 pixels in four classes."""
    root = tmp_path / "images"
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        folder = root / f"n{label:08d}"
        folder.mkdir(parents=True)
        for number in (18, 2, 10026):
            pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"n{label:08d}_{number}.png")
    return root


def order_of(images: Path) -> ImageOrder:
    return ImageOrder.of_source(open_source(str(images)))


def files_of(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.is_file()}


def shares(report: ImportReport) -> list[float | None]:
    return [None if one is None else one.share for one in report.agreement]


Members = Callable[..., list[tuple[str, bytes]]]


@pytest.fixture
def members() -> Members:
    """Makes the members of an archive for `images`, in an order as arbitrary as a directory's."""

    def make(folder: str = "reinforced_data", samples: int = 3, seed: int = 0) -> Any:
        contents = [cropflip_content(i, i // 3, samples, seed) for i in range(12)]
        named = [(f"{folder}/{i}.pth.tar", saved(c)) for i, c in enumerate(contents)]
        config = config_of(CROPFLIP, num_samples=samples)
        named.append((f"{folder}/config.pth.tar", saved(config, protocol=2)))
        order = np.random.default_rng(1).permutation(len(named)).tolist()
        return [named[i] for i in order]

    return make


@pytest.fixture
def archive(tmp_path: Path, members: Members) -> Path:
    return write_tar(tmp_path / "a.tar.gz", members())
