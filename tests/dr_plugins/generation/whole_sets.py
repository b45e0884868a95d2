"""Sets of 12 images and 6 views each, in shards of 5 images and batches of 16 views."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.datasets import ImageFolder

from dr_plugins.generation.generate import GenerationSettings, reinforce
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import Policy
from tests.tiny import TinyTeacher, policy


def generate(
    out: Path,
    images: Path,
    *,
    teacher: nn.Module | None = None,
    policy_: Policy | None = None,
    **options: Any,
) -> None:
    settings = GenerationSettings(
        policy_ or policy("randaug_mixing"), samples=6, topk=2, batch_size=16, shard_images=5
    )
    source = ImageSource(ImageFolder(str(images)))
    reinforce(source, Ensemble([teacher or TinyTeacher()]), out, settings, **options)


def interrupt() -> None:
    raise KeyboardInterrupt


class Counting(TinyTeacher):
    """Does something in its n-th call; the first two, 0 and 1, only count classes."""

    def __init__(self, call: int = 0, action: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.calls, self.call, self.action = -1, call, action

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.call:
            self.action()
        return super().forward(views)
