"""Shard sets where timm's ``--data-dir`` leads to them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from timm_ext import datasets, names


@pytest.fixture(autouse=True)
def _no_dataset_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "_training", weakref.WeakSet())
    monkeypatch.delenv(names.SHARDS_VARIABLE, raising=False)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training images, six validation images, and a reinforced set of the former."""
    from tests.tiny import make_photographs, make_set, policy

    root = tmp_path_factory.mktemp("data")
    train = make_photographs(root / "train")
    for path in make_photographs(root / "val", per_class=2).rglob("*.JPEG"):
        Image.open(path).rotate(180).save(path.with_name(f"val_{path.name}"))
        path.unlink()
    make_set(root / "reinforcements" / "imagenet-plus", train, policy_=policy("randaug", size=32))
    return root


@pytest.fixture
def train(data_dir: Path) -> Callable[..., dict[str, Any]]:
    """Train in this process, with names bound as a script would bind them."""
    from tests.timm_ext import train_driver

    def run(*options: str, dataset: str = "imagenet-plus?p=1") -> dict[str, Any]:
        fixed = ("--dataset", dataset, "--data-dir", str(data_dir), "--num-classes", "3")
        return train_driver.main([*fixed, "--img-size", "32", *options])

    return run
