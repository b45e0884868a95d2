"""Photographs whose class is their colour, and a teacher that sees it: learnt in seconds."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import nn

from tests.tiny import CLASSES, make_set, photograph, policy

SIZE = 32
_TINTS = ((220, 60, 60), (60, 200, 60), (60, 60, 220))


class ColourTeacher(nn.Module):
    """Sure of the channel that is brightest."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(12.0))

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        return self.scale * views.float().mean(dim=(2, 3)) / 255


def make_coloured(root: Path, per_class: int = 16) -> Path:
    for c, (name, tint) in enumerate(zip(CLASSES, _TINTS, strict=True)):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            image = photograph(1000 * c + i, 48, 40)
            flat = Image.new("RGB", image.size, tint)
            Image.blend(image, flat, 0.4).save(root / name / f"{i}.png")
    return root


def make_coloured_set(root: Path, images: Path) -> Path:
    return make_set(
        root, images, policy_=policy("rrc", size=SIZE), samples=4, topk=3, teacher=ColourTeacher()
    )
