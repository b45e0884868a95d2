"""The evidence's transfer to Detectron2, made as small as it can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("timm")
pytest.importorskip("pycocotools")
pytest.importorskip("detectron2")

from examples.evidence import scenes, transfer
from examples.evidence.models import RECIPES
from tests.d2_ext import stand_ins


@pytest.mark.slow
def test_a_pretrained_backbone_is_trained_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins.use_python_evaluation()
    monkeypatch.setattr(scenes, "_COUNTS", {"train": 8, "val": 4})
    monkeypatch.setattr(transfer, "_STEPS", 12)
    monkeypatch.setattr(transfer, "_PRETRAINING", replace(transfer._PRETRAINING, images=50))
    monkeypatch.setattr(transfer, "train", lambda task: (RECIPES["backbone"].build(), {}))
    weights = transfer.pretrained_backbone("plain", 0, tmp_path)
    found = transfer.transfer("detectron2", weights, 0, tmp_path)["transfer"]
    assert found.keys() == {"box mAP", "mask mAP"}
