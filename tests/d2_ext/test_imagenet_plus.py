"""The lines of docs/imagenet-plus.md for Detectron2, as they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("timm")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from tests.d2_ext.conftest import random_network
from tests.documents import code_blocks
from tests.dr_models.checkpoints.networks import cvnets_state

PAGE = "docs/imagenet-plus.md"
SECTION = {"after": "## Or with Detectron2"}


def train_from(lines: str) -> Any:
    """The model that the configuration builds, with the weights that it names."""
    names: dict[str, Any] = {}
    exec(lines, names)
    names["cfg"].MODEL.DEVICE = "cpu"
    model = build_model(names["cfg"])
    assert model.input_format == "RGB"
    DetectionCheckpointer(model).load(names["cfg"].MODEL.WEIGHTS)
    return model


def test_from_a_download_to_mask_rcnn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (lines,) = code_blocks(PAGE, "python", **SECTION)
    (download,) = code_blocks(PAGE, "shell", after="Or download", before="## 3.")
    name = download.split()[-1].rpartition("/")[2]
    assert f'"{name}"' in lines
    torch.save(cvnets_state("resnet_50"), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    model = train_from(lines)
    assert model.backbone.bottom_up.network.is_loaded
    assert model.pixel_std.flatten().tolist() == [255.0] * 3


def test_detectron2s_own_resnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (lines,) = code_blocks(PAGE, "python", **SECTION)
    kept = [line for line in lines.splitlines() if "BACKBONE" not in line and "TIMM" not in line]
    kept.insert(-1, "cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False")
    network = random_network("resnet50")
    torch.save(network.state_dict(), tmp_path / "best.pt")
    monkeypatch.chdir(tmp_path)
    model = train_from("\n".join(kept))
    weight = model.backbone.bottom_up.res5[2].conv3.weight
    assert torch.equal(weight, network.layer4[2].conv3.weight)
