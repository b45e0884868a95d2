"""Every config of the examples trains as it is, but for its size and its data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, DefaultScope

from tests.mmlab_ext import small

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")


class Losses(Hook):
    def __init__(self) -> None:
        self.values: list[float] = []
        self.state: dict[str, torch.Tensor] = {}

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if not self.state:
            self.state = {k: v.clone() for k, v in runner.model.backbone.state_dict().items()}

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.values.append(outputs["loss"].item())


def without_validation(config: Any) -> Any:
    for part in ("val", "test"):
        for name in (f"{part}_dataloader", f"{part}_cfg", f"{part}_evaluator"):
            config[name] = None
    config.default_hooks.checkpoint = None
    config.default_hooks.pop("visualization", None)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", [*small.DETECTION, *small.SEGMENTATION])
def test_a_step_of_each_config(name: str, labelme: Path, tmp_path: Path, build_runner: Any) -> None:
    config = without_validation(small.small(name, labelme, tmp_path))
    config.train_dataloader.dataset.indices = 2
    if "max_iters" in config.train_cfg:
        config.train_cfg.max_iters = 1
    else:
        config.train_cfg.max_epochs = 1
    for scheduler in config.param_scheduler:
        scheduler.pop("milestones", None)
    config.param_scheduler = []
    runner = build_runner(config)
    losses = Losses()
    runner.register_hook(losses)
    runner.train()
    assert len(losses.values) == 1
    assert math.isfinite(losses.values[0])
    source = torch.load(next(tmp_path.glob("*.pt")))
    found = sum(any(torch.equal(v, s) for s in source.values()) for v in losses.state.values())
    assert found == len(losses.state)


@pytest.mark.parametrize("name", [*small.DETECTION, *small.SEGMENTATION])
def test_the_images_are_those_of_the_network(name: str) -> None:
    config = Config.fromfile(small.EXAMPLES / name)
    backbone, preprocessor = config.model.backbone, config.model.data_preprocessor
    assert preprocessor.bgr_to_rgb
    if backbone.type == "TimmFeatures":
        built = MODELS.build({**backbone, "_scope_": "mmengine"})
        mean, std = built.convention.for_range(255)
        if name.startswith("mask-rcnn"):
            assert built.channels == config.model.neck.in_channels
    else:
        mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    assert preprocessor.mean == pytest.approx(mean)
    assert preprocessor.std == pytest.approx(std)


@pytest.mark.parametrize("name", small.SEGMENTATION)
def test_validation_takes_images_of_any_size(name: str) -> None:
    from mmseg.structures import SegDataSample

    config = Config.fromfile(small.EXAMPLES / name)
    model = config.model
    model.data_preprocessor.pop("size", None)
    if "vit" in name:
        model.backbone.model = "cvnets_vit_tiny_patch16_224"
        model.neck.in_channels = [192] * 4
    model.test_cfg = {"mode": "whole"}
    with DefaultScope.overwrite_default_scope("mmseg"):
        segmentor = MODELS.build({**model, "_scope_": "mmseg"}).eval()
        for height, width in ((64, 94), (79, 65)):
            image = torch.randint(256, (3, height, width), dtype=torch.uint8)
            sample = SegDataSample(metainfo={"img_shape": (height, width), "ori_shape": (30, 40)})
            with torch.no_grad():
                (found,) = segmentor.test_step({"inputs": [image], "data_samples": [sample]})
            assert found.pred_sem_seg.data.shape == (1, 30, 40)


def test_the_long_schedules_are_those_of_the_configs_that_they_name() -> None:
    detector = Config.fromfile(small.EXAMPLES / "mask-rcnn_cvnets-r50_fpn_100e_coco.py")
    assert detector.train_cfg.max_epochs == 100
    wrapper = detector.optim_wrapper
    assert {**wrapper.optimizer} == {
        "type": "SGD",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 4e-5,
    }
    assert wrapper.paramwise_cfg.custom_keys.backbone.lr_mult == 0.1
    assert detector.train_dataloader.batch_size * 8 == 32 == detector.auto_scale_lr.base_batch_size
    warmup, steps = detector.param_scheduler
    assert (warmup.end, warmup.start_factor * wrapper.optimizer.lr) == (500, pytest.approx(0.001))
    assert (steps.milestones, steps.gamma) == ([60, 84], 0.1)
    assert detector.default_hooks.ema.momentum == 5e-4
    assert (detector.sync_bn, detector.model.backbone.frozen_stages) == ("torch", -1)
    resize = detector.train_dataloader.dataset.pipeline[2]
    assert (resize.type, len(resize.scales)) == ("RandomChoiceResize", 10)
    assert (min(resize.scales), max(resize.scales)) == ((512, 512), (1280, 1280))
    assert all(side % 32 == 0 for scale in resize.scales for side in scale)
    segmentor = Config.fromfile(small.EXAMPLES / "deeplabv3_cvnets-r50-d8_50e_ade20k-512x512.py")
    assert segmentor.train_cfg.max_epochs == 50
    assert segmentor.train_dataloader.batch_size * 4 == 16
    assert segmentor.optim_wrapper.optimizer.lr == 0.02
    (schedule,) = segmentor.param_scheduler
    assert (schedule.type, schedule.eta_min, schedule.end) == ("CosineAnnealingLR", 1e-4, 50)
    assert segmentor.default_hooks.ema.momentum == 1e-4
    assert tuple(segmentor.model.decode_head.dilations) == (1, 12, 24, 36)
    assert segmentor.model.auxiliary_head.loss_decode.loss_weight == 0.4
    assert tuple(segmentor.model.data_preprocessor.size) == (512, 512)


def test_the_pretraining_example(reinforced: Any, tmp_path: Path, build_runner: Any) -> None:
    config = Config.fromfile(small.EXAMPLES / "resnet50_imagenet-plus.py")
    tiny = reinforced()
    for name in ("train_dataloader", "val_dataloader"):
        loader = config[name]
        loader.update(num_workers=0, persistent_workers=False, pin_memory=False, batch_size=4)
        paths = {
            key: tiny[name]["dataset"][key]
            for key in ("images", "root", "shards")
            if key in tiny[name]["dataset"]
        }
        loader.dataset.update(paths)
    config.val_dataloader.dataset.size = 24
    config.model.update(model="test_resnet", num_classes=3)
    config.model.data_preprocessor = {"channels_last": True}
    config.optim_wrapper.type = "OptimWrapper"
    config.train_cfg.update(max_epochs=1, val_interval=1)
    config.param_scheduler = config.param_scheduler[:1]
    runner = build_runner(config)
    runner.train()
    metrics = runner.message_hub.log_scalars
    assert {"val/accuracy/top1", "val/accuracy/top5", "val/calibration/ece"} <= set(metrics)
    assert list((tmp_path / "work").glob("best_accuracy_top1_epoch_1.pth"))
