from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torchvision.datasets import ImageFolder

from dr_plugins import ReinforcedDataset

Sets = Callable[..., Path]


@pytest.fixture
def make(photographs: Path, shard_sets: Sets) -> Callable[..., ReinforcedDataset]:
    def build(name: str = "randaug", backend: str = "pil", **options: Any) -> ReinforcedDataset:
        images = ImageFolder(str(photographs))
        return ReinforcedDataset(images, shard_sets(name, backend), **options)

    return build
