"""Tiny data, so that a recipe runs from end to end in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
from PIL import Image
from timm.models import register_model
from torch import Tensor, nn

from dr_plugins import Ensemble, GenerationSettings, Policy, open_source, reinforce
from examples.recipes.imagenet.ig_resnext101 import EnsembleLogits

CLASSES = 3


def make_images(root: Path, per_class: int = 2) -> Path:
    """Write ``root/train`` and ``root/val``: noise of one colour for each class."""
    for split, count in (("train", per_class), ("val", 1)):
        for label in range(CLASSES):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                rng = np.random.default_rng([label, i, count])
                pixels = rng.integers(0, 80, (72, 96, 3), np.uint8)
                pixels[..., label] += 128
                Image.fromarray(pixels).save(folder / f"{split}_{label}_{i}.JPEG")
    return root


class _Teacher(nn.Module):
    """The class is the strongest colour."""

    def forward(self, views: Tensor) -> Tensor:
        return views.float().mean(dim=(2, 3))[:, :CLASSES] / 10


def build_teacher() -> nn.Module:
    """For ``--teacher python:examples.recipes.smoke:build_teacher``."""
    return _Teacher()


def make_shards(images: Path, out: Path, policy: str = "randaug") -> Path:
    """Reinforce the images of `make_images`."""
    settings = GenerationSettings(Policy.load(policy), samples=2, topk=2, batch_size=8)
    reinforce(open_source(str(images / "train")), Ensemble([build_teacher()]), out, settings)
    return out


@register_model
def smoke_ensemble(pretrained: bool = False, num_classes: int = CLASSES, **_: object) -> nn.Module:
    """For ``--kd-model-name``: small members, combined like the teachers of ImageNet+."""
    members = [timm.create_model("test_resnet", num_classes=num_classes) for _ in range(2)]
    return EnsembleLogits(members)
