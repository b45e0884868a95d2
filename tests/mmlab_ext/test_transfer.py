"""The evidence's transfer to MMSegmentation and MMDetection, made as small as it can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("timm")
pytest.importorskip("pycocotools")
pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from examples.evidence import scenes, transfer
from examples.evidence.models import RECIPES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "metrics"), [("mmseg", {"mIoU"}), ("mmdet", {"box mAP", "mask mAP"})]
)
def test_a_pretrained_backbone_is_trained_and_evaluated(
    host: str, metrics: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenes, "_COUNTS", {"train": 8, "val": 4})
    monkeypatch.setattr(transfer, "_STEPS", 12)
    monkeypatch.setattr(transfer, "_PRETRAINING", replace(transfer._PRETRAINING, images=50))
    monkeypatch.setattr(transfer, "train", lambda task: (RECIPES["backbone"].build(), {}))
    weights = transfer.pretrained_backbone("plain", 0, tmp_path)
    found = transfer.transfer(host, weights, 0, tmp_path)["transfer"]
    assert found.keys() == metrics
    assert all(0 <= value <= 100 for value in found.values())
