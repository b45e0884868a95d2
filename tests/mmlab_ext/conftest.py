"""Runs of MMEngine's Runner on small real data."""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.mmlab_ext.configs import pretraining, unformatted
from tests.mmlab_ext.stand_ins import install

if all(importlib.util.find_spec(name) for name in ("mmengine", "timm")):
    install()
else:  # a conftest cannot skip
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    # Upstream MMEngine 0.10 reads its own checkpoints with the default of PyTorch before 2.6.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setattr("mmengine.config.config.FormatCode", unformatted)


@pytest.fixture
def reinforced(photographs: Path, shard_sets: Callable[..., Path]) -> Callable[..., Any]:
    """Make the config of a training on the shard set of the photographs."""
    return partial(pretraining, photographs, shard_sets())


@pytest.fixture
def build_runner(tmp_path: Path) -> Callable[..., Any]:
    """Build a Runner from a config, in a new folder."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    def build(config: dict[str, Any], **changes: Any) -> Any:
        cfg = config if isinstance(config, Config) else Config(config)
        cfg.merge_from_dict({"work_dir": str(tmp_path / "work"), **changes})
        # MMEngine returns what it built before under the same name, with that run's folder.
        cfg.experiment_name = uuid.uuid4().hex
        if "visualizer" in cfg:
            cfg.visualizer.name = cfg.experiment_name
        return Runner.from_cfg(cfg)

    return build
