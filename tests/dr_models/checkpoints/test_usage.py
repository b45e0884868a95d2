"""Converted files load by the host's own means, with the lines that the command prints."""

from __future__ import annotations

import ast
import logging
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from click.testing import CliRunner
from PIL import Image

from dr_models.checkpoints import convert, read_convention
from dr_models.checkpoints.usage import how_to_load
from dr_models.cli import convert_checkpoint
from tests.dr_models.checkpoints.networks import cvnets_state
from tests.dr_models.checkpoints.test_hosts import without_operators


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A network in a file, and the working directory beside it."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=5)
    torch.save(network.state_dict(), "best.pt")
    return network


def printed(arch: str, to: str) -> str:
    report = convert("best.pt", arch=arch, to=to)
    return how_to_load(report, read_convention(report.out))


def test_the_name_says_what_the_file_is_for(checkpoint: Any) -> None:
    arguments = ["best.pt", "--arch", "torchvision:resnet18", "--to", "detectron2"]
    result = CliRunner().invoke(convert_checkpoint, arguments)
    assert result.exit_code == 0, result.output
    assert Path("resnet18-for-detectron2.pth").is_file()
    assert 'MODEL.WEIGHTS "resnet18-for-detectron2.pth"' in result.output


@pytest.mark.parametrize("to", ["timm", "torchvision"])
def test_lines_of_a_program(to: str, checkpoint: Any) -> None:
    pytest.importorskip("timm")
    names: dict[str, Any] = {}
    exec(printed("torchvision:resnet18", to), names)
    assert torch.equal(names["model"].fc.weight, checkpoint.fc.weight)
    headless = {key: value for key, value in checkpoint.state_dict().items() if key[:2] != "fc"}
    torch.save(headless, "best.pt")
    exec(printed("torchvision:resnet18", to), names)
    assert torch.equal(names["model"].conv1.weight, checkpoint.conv1.weight)


@pytest.mark.parametrize("to", ["timm", "torchvision"])
def test_lines_of_a_program_for_the_published_networks(to: str, checkpoint: Any) -> None:
    pytest.importorskip("timm")
    state = cvnets_state("resnet_18")
    torch.save(state, "best.pt")
    names: dict[str, Any] = {}
    exec(printed("resnet_18", to), names)
    stored = state["classifier.classifier_fc.weight"]
    assert torch.equal(names["model"].fc.weight, stored)


def test_lines_of_a_program_for_images_that_are_not_the_default(checkpoint: Any) -> None:
    timm = pytest.importorskip("timm")
    images = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    report = convert("best.pt", arch="torchvision:resnet18", to="timm", **images)
    names: dict[str, Any] = {}
    exec(how_to_load(report, read_convention(report.out)), names)
    found = timm.data.resolve_model_data_config(names["model"])
    assert {name: found[name] for name in images} == images


def test_lines_of_a_config_of_mmdetection(checkpoint: Any) -> None:
    pytest.importorskip("mmengine")
    pytest.importorskip("mmcv")
    without_operators("mmcv._ext")
    backbones = pytest.importorskip("mmdet.models.backbones.resnet")
    names: dict[str, Any] = {}
    exec(printed("torchvision:resnet18", "mmengine"), names)
    settings = names["model"]["backbone"]
    backbone = getattr(backbones, settings.pop("type"))(**settings)
    backbone.init_weights()
    own = backbone.state_dict()
    expected = checkpoint.state_dict()
    assert own.keys() == {key for key in expected if not key.startswith("fc.")}
    assert all(torch.equal(own[key], expected[key]) for key in own)
    assert names["model"]["data_preprocessor"]["mean"] == [123.675, 116.28, 103.53]
    assert names["model"]["data_preprocessor"]["bgr_to_rgb"] is True


def test_settings_of_detectron2(checkpoint: Any, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("detectron2")
    # Detectron2 0.6 needs names that have gone since.
    Image.LINEAR = getattr(Image, "LINEAR", Image.BILINEAR)  # type: ignore[attr-defined]
    without_operators("detectron2._C")
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone
    from torch import nn

    lines = printed("torchvision:resnet18", "detectron2")
    cfg = get_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = cfg.MODEL.RESNETS.OUT_FEATURES
    cfg.merge_from_list(shlex.split(lines))
    assert cfg.INPUT.FORMAT == "RGB"
    assert ast.literal_eval(str(cfg.MODEL.PIXEL_STD)) == [58.395, 57.12, 57.375]
    model = nn.Module()  # with the names that a detector has
    model.backbone = build_resnet_fpn_backbone(cfg, ShapeSpec(channels=3))
    # Not the method: d2_ext replaces it for its addresses once imported.
    load = getattr(DetectionCheckpointer.load, "__wrapped__", DetectionCheckpointer.load)
    with caplog.at_level(logging.WARNING):
        load(DetectionCheckpointer(model), cfg.MODEL.WEIGHTS)
    own, expected = model.backbone.bottom_up.state_dict(), checkpoint.state_dict()
    assert torch.equal(own["stem.conv1.weight"], expected["conv1.weight"])
    assert torch.equal(own["res5.1.conv2.norm.running_var"], expected["layer4.1.bn2.running_var"])
    assert not [record for record in caplog.records if "bottom_up" in record.getMessage()]
