"""Mask R-CNN through Detectron2's own trainer, on photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("timm")

from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.evaluation import COCOEvaluator

import d2_ext  # noqa: F401
from tests.d2_ext.conftest import NATIVE, TIMM, Saved, Yacs


class Trainer(DefaultTrainer):
    """Evaluates as Detectron2's tools do."""

    @classmethod
    def build_evaluator(cls, cfg: Any, dataset_name: str) -> COCOEvaluator:
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR)


def backbone_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    state = model.backbone.bottom_up.state_dict()
    return {key: value.clone() for key, value in state.items()}


@pytest.mark.parametrize("options", [TIMM, NATIVE], ids=["timm", "native"])
def test_train_evaluate_resume_and_predict(
    options: tuple[Any, ...], yacs: Yacs, saved: Saved, coco: str, tmp_path: Path
) -> None:
    _, path = saved("resnet18")
    cfg = yacs(*options, "MODEL.WEIGHTS", f"imagenet-plus://{path}")
    trainer = Trainer(cfg)
    before = backbone_state(trainer.model)
    trainer.resume_or_load(resume=False)
    loaded = backbone_state(trainer.model)
    trainer.train()
    trained = backbone_state(trainer.model)
    results = trainer._last_eval_results
    assert 0 <= results["bbox"]["AP"] <= 100
    assert 0 <= results["segm"]["AP"] <= 100

    changed = {key for key in trained if not torch.equal(trained[key], loaded[key])}
    weights = {key for key in loaded if loaded[key].ndim == 4}
    frozen = {key for key in weights if _is_before_second_stage(key)}
    assert len(frozen) == 5
    assert not changed & frozen
    assert weights - frozen <= changed
    assert not any(torch.equal(before[key], loaded[key]) for key in weights)

    cfg.SOLVER.MAX_ITER = 3
    resumed = Trainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    assert all(torch.equal(trained[key], v) for key, v in backbone_state(resumed.model).items())
    resumed.train()

    cfg.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR, "model_final.pth"))
    predictor = DefaultPredictor(cfg)
    final = backbone_state(resumed.model)
    assert all(torch.equal(final[key], v) for key, v in backbone_state(predictor.model).items())
    found = predictor(np.full((60, 80, 3), 127, np.uint8))["instances"]
    assert found.image_size == (60, 80)


def _is_before_second_stage(key: str) -> bool:
    return any(part in key for part in ("features.conv1", "layer1", "stem.", "res2."))
