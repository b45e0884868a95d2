"""Detectors on timm backbones are exported, as Detectron2's ``export_model.py`` does it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("timm")

from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch import nn

from d2_ext import TimmBackbone
from tests.d2_ext.conftest import TIMM, Yacs

FIELDS = {
    "proposal_boxes": Boxes,
    "objectness_logits": torch.Tensor,
    "pred_boxes": Boxes,
    "scores": torch.Tensor,
    "pred_classes": torch.Tensor,
    "pred_masks": torch.Tensor,
}


class Scriptable(nn.Module):
    """Gives fields, since instances cannot leave TorchScript."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: tuple[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        instances = self.model.inference(inputs, do_postprocess=False)
        return [each.get_fields() for each in instances]


@pytest.mark.parametrize("norm", ["", "FrozenBN"])
@pytest.mark.parametrize("model", ["cvnets_resnet18", "swin_tiny_patch4_window7_224"])
def test_scripted_backbones_compute_the_same(model: str, norm: str) -> None:
    backbone = TimmBackbone(model, norm=norm).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        features, expected = torch.jit.script(backbone)(images), backbone(images)
    assert list(features) == list(expected) == ["res2", "res3", "res4", "res5"]
    for name, feature in features.items():
        torch.testing.assert_close(feature, expected[name])


@pytest.fixture
def export() -> Any:
    return pytest.importorskip(
        "detectron2.export", reason="that of Detectron2 0.6 needs Caffe2", exc_type=ImportError
    )


def test_scripting_a_detector(export: Any, yacs: Yacs) -> None:
    model = build_model(yacs(*TIMM)).eval()
    scripted = export.scripting_with_instances(Scriptable(model).eval(), FIELDS)
    inputs = ({"image": torch.randint(256, (3, 64, 96)).float()},)
    with torch.no_grad():
        (found,), (expected,) = scripted(inputs), model.inference(inputs, do_postprocess=False)
    assert len(found["scores"]) == len(expected) > 0
    torch.testing.assert_close(found["scores"], expected.scores)
    torch.testing.assert_close(found["pred_masks"], expected.pred_masks)


def test_tracing_a_detector(export: Any, yacs: Yacs) -> None:
    model = build_model(yacs(*TIMM)).eval()
    inputs = [{"image": torch.randint(256, (3, 64, 96)).float()}]

    def inference(model: Any, inputs: Any) -> list[dict[str, Any]]:
        return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]

    adapter = export.TracingAdapter(model, inputs, inference)
    with torch.no_grad():
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
        found = adapter.outputs_schema(traced(*adapter.flattened_inputs))[0]["instances"]
        expected = model.inference(inputs, do_postprocess=False)[0]
    torch.testing.assert_close(found.scores, expected.scores)
