"""The documents' configs and commands for OpenMMLab, as they stand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

import mmlab_ext  # noqa: F401  registers
from mmlab_ext import load_into
from tests.documents import code_blocks
from tests.dr_models.checkpoints.networks import cvnets_state
from tests.mmlab_ext import small
from tests.mmlab_ext.test_examples import without_validation

pytest.importorskip("mmdet", reason="MMDetection is not installed")
import mmdet.models  # noqa: F401  registers its ResNet

PAGE = "docs/imagenet-plus.md"
SECTION = {
    "after": "## 3. Mask R-CNN with MMDetection",
    "before": "## Or with Detectron2",
}


def page_config(folder: Path) -> Any:
    """The page's config, beside the file that it downloads."""
    (download,) = code_blocks(PAGE, "shell", after="Or download", before="## 3.")
    (train,) = code_blocks(PAGE, "shell", **SECTION)
    (config,) = code_blocks(PAGE, "python", **SECTION)
    name = config.splitlines()[0].removeprefix("# ")
    assert train.split("#")[0].split() == ["python", "tools/train.py", name]
    place = folder / download.split()[-1].rpartition("/")[2]
    torch.save(cvnets_state("resnet_50"), place)
    (folder / name).write_text(config)
    return Config.fromfile(folder / name)


@pytest.mark.slow
def test_the_way_from_a_download_to_mask_rcnn(
    labelme: Path, tmp_path: Path, build_runner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = without_validation(small.shrink(page_config(tmp_path), labelme, tmp_path))
    config.train_dataloader.dataset.indices = 2
    config.train_cfg.max_epochs = 1
    config.param_scheduler = []
    monkeypatch.chdir(tmp_path)
    runner = build_runner(config)
    runner.train()
    (log,) = (tmp_path / "work").glob("*/*.log")
    assert "model.backbone is resnet_50 from best.pt (cvnets layout)" in log.read_text()


def test_the_backbone_takes_the_download(tmp_path: Path) -> None:
    config = page_config(tmp_path)
    assert config.default_hooks.checkpoint.type == "CheckpointHook"  # the base's
    backbone = MODELS.build({**config.model.backbone, "_scope_": "mmengine"})
    assert backbone.channels == config.model.neck.in_channels
    loaded = load_into(backbone, str(tmp_path / config.default_hooks.backbone.checkpoint))
    mean, std = loaded.convention.for_range(255)
    assert list(mean) == config.model.data_preprocessor.mean
    assert list(std) == config.model.data_preprocessor.std
