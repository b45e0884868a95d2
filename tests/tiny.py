"""Small real things that tests share: photographs on disk, teachers, shard sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.datasets import ImageFolder

from dr_plugins.generation.generate import GenerationSettings, reinforce
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import Policy
from dr_plugins.shards.reader import ShardSet

CLASSES = ("n01", "n02", "n03")


class TinyTeacher(nn.Module):
    """A fixed linear function of a coarse view of the pixels."""

    def __init__(self, num_classes: int = len(CLASSES), seed: int = 0) -> None:
        super().__init__()
        weights = torch.randn(num_classes, 48, generator=torch.Generator().manual_seed(seed))
        self.weights = nn.Parameter(weights)

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        coarse = nn.functional.adaptive_avg_pool2d(views.float() / 64, 4).flatten(1)
        return coarse @ self.weights.T


def build_teacher() -> nn.Module:
    """For ``--teacher python:tests.tiny:build_teacher``."""
    return TinyTeacher()


def photograph(seed: int, height: int, width: int) -> Image.Image:
    """A smooth colour image with some texture, so that JPEG keeps it and every operation shows."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noise = rng.integers(-12, 13, smooth.shape, np.int16)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def hurt(data: bytes) -> bytes:
    """Damage a JPEG file in its middle, so that neither its beginning nor its end shows it."""
    middle = (len(data) + 623) // 2  # behind the headers
    return data[:middle] + b"\xff\x99" + data[middle + 2 :]


def make_photographs(root: Path, per_class: int = 4, classes: Sequence[str] = CLASSES) -> Path:
    """JPEG files whose names sort differently by text and by number (``_2`` and ``_10``)."""
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            image = photograph(100 * c + i, 40 + 3 * i, 56 - 5 * c)
            image.save(root / name / f"{name}_{(7 * i) % 12 + 2}.JPEG", quality=92)
    return root


def policy(name: str = "randaug", size: int = 24, **config: Any) -> Policy:
    """A preset at a small size."""
    base = Policy.load(name, size=size).to_config()
    return Policy.from_config({**base, **config})


def make_set(
    out: Path,
    images: Any,
    *,
    policy_: Policy | None = None,
    samples: int = 6,
    topk: int | None = 2,
    teacher: nn.Module | None = None,
    left_out: Sequence[str] = (),
    **settings: Any,
) -> Path:
    """Reinforce a dataset (or the image folder at a path) with a tiny teacher."""
    if isinstance(images, Path):
        images = ImageFolder(str(images))
    source = images if isinstance(images, ImageSource) else ImageSource(images)
    options = {"batch_size": 16, "shard_images": 5, **settings}
    generation = GenerationSettings(policy_ or policy(), samples=samples, topk=topk, **options)
    teachers = Ensemble([teacher or TinyTeacher()])
    # A teacher of random weights knows none of the labels.
    reinforce(source, teachers, out, generation, left_out=left_out, min_agreement=0)
    return out


def files(directory: Path) -> dict[str, bytes]:
    """All that a set consists of."""
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.name != ".lock"}


def content(directory: Path) -> dict[str, Any]:
    """All that a set stores about each key, apart from checksums and fingerprints."""
    shards = ShardSet(directory)
    names = [field.name for field in shards.manifest.layout.fields]
    samples = np.arange(shards.manifest.samples)
    return {
        key: (
            [shards.read(np.full(len(samples), row), samples)[name].tolist() for name in names],
            shards.image(row)[:2],
        )
        for row, key in enumerate(shards.keys)
    }
