"""Checkpoints into models whose backbone is in parts, elsewhere, or not quite the usual one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import EpochBasedTrainLoop
from torch import nn

import mmlab_ext  # noqa: F401  registers
from dr_models.checkpoints import mark_loaded
from dr_plugins.errors import BackboneError, CheckpointError
from mmlab_ext import ConfigError, load_into

pytest.importorskip("mmdet", reason="MMDetection is not installed")
import mmdet.models  # noqa: F401  registers its ResNet

from tests.mmlab_ext.test_backbone_hook import config_of, train
from tests.mmlab_ext.test_backbones import features_of, images, resnet, saved

Builder = Callable[..., Any]
THREE_STAGES = {"num_stages": 3, "strides": (1, 2, 2), "dilations": (1, 1, 1), "out_indices": (2,)}


@MODELS.register_module()
class TinyC4(BaseModel):
    """A detector whose last stage stands behind its RoIs."""

    def __init__(self, backbone: Any, shared_head: Any, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor)
        self.backbone = MODELS.build(backbone)
        self.roi_head = nn.Module()
        self.roi_head.shared_head = MODELS.build(shared_head)

    def forward(self, inputs: torch.Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        features = self.roi_head.shared_head(self.backbone(inputs)[-1])
        return {"loss": features.square().mean()} if mode == "loss" else features


@MODELS.register_module()
class TinyPair(BaseModel):
    """A teacher and a student, as in semi-supervised detection."""

    def __init__(self, backbone: Any, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor)
        self.student, self.teacher = nn.Module(), nn.Module()
        self.student.backbone, self.teacher.backbone = map(MODELS.build, (backbone, backbone))

    def forward(self, inputs: torch.Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        return {"loss": sum(f.square().mean() for f in self.student.backbone(inputs))}


def short(path: str, **backbone: Any) -> dict[str, Any]:
    """One epoch, without files."""
    config = config_of(path, **backbone)
    config["train_cfg"]["max_epochs"] = 1
    config["default_hooks"] = {"checkpoint": None}
    return config


def c4(path: str, depth: int = 18, backbone: Any = None, **head: Any) -> dict[str, Any]:
    config = short(path)
    native = {"type": "mmdet.ResNet", "depth": depth, **THREE_STAGES}
    config["model"].update(
        type="TinyC4",
        backbone=backbone or native,
        shared_head={"type": "mmdet.ResLayer", "depth": depth, "norm_eval": False, **head},
    )
    return config


class Answer(Hook):
    """What the model answers as it is at the first step."""

    priority = "VERY_LOW"

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if not hasattr(self, "value"):
            with torch.no_grad():
                self.value = copy.deepcopy(runner.model).eval()(images())


def log_of(folder: Path) -> str:
    # One for each second in which a run began.
    return "".join(log.read_text() for log in (folder / "work").glob("*/*.log"))


@pytest.mark.parametrize(
    "backbone", [None, {"type": "TimmFeatures", "model": "resnet18", "out_indices": (3,)}]
)
def test_a_stage_behind_the_rois_is_filled(
    backbone: Any, build_runner: Builder, tmp_path: Path
) -> None:
    network, path = saved("resnet18", tmp_path)
    runner = build_runner(c4(path, backbone=backbone))
    answer = Answer()
    runner.register_hook(answer)
    runner.train()
    for name in ("backbone", "roi_head.shared_head"):
        count = len(runner.model.get_submodule(name).state_dict())
        assert f"model.{name} is resnet18 from" in log_of(tmp_path)
        assert f": {count} tensors loaded and compared" in log_of(tmp_path)
    torch.testing.assert_close(answer.value, features_of(network)[-1], rtol=1e-4, atol=1e-5)


def test_a_stage_behind_the_rois_takes_an_init_cfg(tmp_path: Path) -> None:
    network, path = saved("cvnets_resnet18", tmp_path)
    place = f"imagenet-plus://{path}?source=timm&arch=cvnets_resnet18"
    init_cfg = {"type": "Pretrained", "checkpoint": place}
    stage = MODELS.build({"type": "mmdet.ResLayer", "depth": 18, "init_cfg": init_cfg})
    stage.init_weights()
    assert_stage(stage, network)


def assert_stage(stage: nn.Module, network: Any) -> None:
    own = stage.state_dict()
    assert len(own) == 30
    source = network.state_dict()
    assert all(torch.equal(value, source[key]) for key, value in own.items())


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"norm_cfg": {"type": "BN", "eps": 1e-3}}, r"shared_head: layer4\.0\.bn1 .*eps 0\.001"),
        ({"style": "caffe"}, r"shared_head: style is 'caffe'"),
    ],
)
def test_a_stage_that_computes_something_else_is_refused(
    head: dict[str, Any], message: str, build_runner: Builder, tmp_path: Path
) -> None:
    _, path = saved("resnet50", tmp_path)
    with pytest.raises(BackboneError, match=message):
        train(build_runner(c4(path, 50, **head)))


@pytest.mark.parametrize(
    "backbone",
    [
        {"type": "TimmFeatures", "model": "resnet18d"},
        {"type": "TimmFeatures", "model": "resnet18", "act_layer": "silu"},
    ],
)
def test_a_stage_that_the_network_does_not_have_is_refused(
    backbone: dict[str, Any], build_runner: Builder, tmp_path: Path
) -> None:
    options = {key: value for key, value in backbone.items() if key == "act_layer"}
    _, path = saved(backbone["model"], tmp_path, **options)
    config = c4(f"imagenet-plus://{path}?source=timm&arch={backbone['model']}", backbone=backbone)
    with pytest.raises(CheckpointError, match=r"layer4\.0\.conv1\.weight is not in the checkp"):
        train(build_runner(config))


@pytest.mark.parametrize("host", ["mmdet", "mmseg"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_cfg": {"type": "BN", "eps": 1e-3}}, r"bn1 .* eps 0\.001"),
        ({"norm_cfg": {"type": "SyncBN", "eps": 1e-3}}, r"bn1 .* eps 0\.001"),
        (
            {"norm_cfg": {"type": "IN", "affine": True, "track_running_stats": True}},
            r"downsample\.1 is InstanceNorm2d",
        ),
        (
            {"conv_cfg": {"type": "Conv2d", "padding_mode": "circular"}},
            r"conv1 pads with 'circular'",
        ),
    ],
)
def test_layers_that_compute_something_else_are_refused(
    host: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    _, path = saved("resnet18", tmp_path)
    backbone = MODELS.build(resnet(host, **options))
    with pytest.raises((BackboneError, CheckpointError), match=message):
        load_into(backbone, path)


DEFORMABLE = {
    "dcn": {"type": "DCN", "deform_groups": 1, "fallback_on_stride": False},
    "stage_with_dcn": (False, False, False, True),
}


def test_tensors_may_be_declared_as_new(tmp_path: Path) -> None:
    network, path = saved("resnet50", tmp_path)
    backbone = MODELS.build(resnet("mmdet", depth=50, **DEFORMABLE))
    with pytest.raises(CheckpointError, match=r"conv_offset.* is not in the checkpoint.*new_keys"):
        load_into(backbone, path)
    with pytest.raises(CheckpointError, match=r"new_keys has '\*\.offset\.\*'"):
        load_into(backbone, path, new_keys=["*.conv_offset.*", "*.offset.*"])
    offset = backbone.layer4[0].conv2.conv_offset.weight.data.fill_(0.5)
    loaded = load_into(backbone, f"imagenet-plus://{path}?new_keys=*.conv_offset.*")
    assert len(loaded.new) == 6
    assert torch.equal(backbone.layer4[0].conv2.weight, network.layer4[0].conv2.weight)
    assert (offset == 0.5).all()


@pytest.mark.parametrize("by_hook", [True, False])
def test_plugins_may_be_declared_as_new(
    by_hook: bool, build_runner: Builder, tmp_path: Path
) -> None:
    network, path = saved("resnet50", tmp_path)
    plugin = {"cfg": {"type": "ContextBlock", "ratio": 1 / 16}, "position": "after_conv3"}
    config = short(path, depth=50, plugins=[plugin])
    if by_hook:
        config["custom_hooks"][0]["new_keys"] = ["backbone.*.context_block.*"]
    else:
        del config["custom_hooks"]
        config["model"]["backbone"]["init_cfg"] = {
            "type": "Pretrained",
            "checkpoint": f"imagenet-plus://{path}",
            "new_keys": ["*.context_block.*"],
        }
    seen = train(build_runner(config))
    source = network.state_dict()
    new = {key for key in seen.state if ".context_block." in key}
    assert len(new) == 16 * 8
    assert all(torch.equal(seen.state[key], source[key]) for key in seen.state.keys() - new)


def test_a_backbone_may_be_said_to_be_loaded() -> None:
    config = {"type": "TimmFeatures", "model": "resnet18", "frozen_stages": 1}
    model = nn.Sequential(MODELS.build(config))
    mark_loaded(model)
    model.train()(images())


def test_new_keys_are_for_our_checkpoints() -> None:
    init_cfg = {"type": "Pretrained", "checkpoint": "resnet18.pth", "new_keys": ["*"]}
    with pytest.raises(CheckpointError, match=r"imagenet-plus://resnet18\.pth"):
        MODELS.build(resnet("mmdet", init_cfg=init_cfg)).init_weights()


def test_a_backbone_may_be_anywhere(build_runner: Builder, tmp_path: Path) -> None:
    network, path = saved("resnet18", tmp_path)
    config = config_of(path)
    config["model"]["type"] = "TinyPair"
    inner = config["model"]["data_preprocessor"]
    config["model"]["data_preprocessor"] = {
        "type": "mmdet.MultiBranchDataPreprocessor",
        "data_preprocessor": {**inner, "type": "mmdet.DetDataPreprocessor"},
    }
    with pytest.raises(ConfigError, match=r"'student\.backbone', 'teacher\.backbone'"):
        train(build_runner(config))
    config["custom_hooks"][0]["module"] = "student.backbone"
    runner = build_runner(config)
    runner._train_loop = EpochBasedTrainLoop(runner, runner._train_dataloader, 0)
    runner.train()
    state = runner.model.student.backbone.state_dict()
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())
    assert "nothing was loaded into model.teacher.backbone" in log_of(tmp_path)


@pytest.mark.parametrize(
    "way", ["default_hooks = dict(backbone={})", "custom_hooks = [*_base_.custom_hooks, {}]"]
)
def test_the_base_configs_hooks_stay(way: str, build_runner: Builder, tmp_path: Path) -> None:
    _, path = saved("resnet18", tmp_path)
    config = short(path)
    (hook,) = config.pop("custom_hooks")
    base, mine = tmp_path / "base.py", tmp_path / "mine.py"
    Config({**config, "custom_hooks": [{"type": "EMAHook"}]}).dump(base)
    mine.write_text(f"_base_ = 'base.py'\n{way.format(hook)}\n")
    runner = build_runner(Config.fromfile(mine))
    train(runner)
    kinds = [type(each).__name__ for each in runner.hooks]
    assert {"EMAHook", "ReinforcedBackboneHook"} <= set(kinds)
    assert "model.backbone is resnet18 from" in log_of(tmp_path)
