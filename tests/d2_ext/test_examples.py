"""Every example configuration is read and builds what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("timm")

from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model

from d2_ext import ReinforcedClassifier, SimpleFeaturePyramid, TimmBackbone, add_dr_plugins_config
from dr_models.checkpoints import CheckpointLocation

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "detectron2"
YAML = sorted(path.name for path in EXAMPLES.glob("*.yaml") if not path.name.startswith("Base"))
LAZY = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "pretrain_net.py")


def read(name: str) -> Any:
    cfg = get_cfg()
    add_dr_plugins_config(cfg)
    if name.startswith("deeplab"):
        project = pytest.importorskip("detectron2.projects.deeplab")
        project.add_deeplab_config(cfg)
    cfg.merge_from_file(str(EXAMPLES / name))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def test_all_are_found() -> None:
    assert len(YAML) == 6
    assert len(LAZY) == 6


@pytest.mark.parametrize("name", YAML)
def test_yacs_examples(name: str) -> None:
    cfg = read(name)
    model = build_model(cfg)
    assert cfg.INPUT.FORMAT == "RGB"
    if name.startswith("pretrain"):
        assert isinstance(model, ReinforcedClassifier)
        assert cfg.SOLVER.MAX_ITER == 300 * (1281167 // 1024)
        return
    CheckpointLocation.parse(cfg.MODEL.WEIGHTS)
    model.eval()
    images = torch.zeros(1, 3, 64, 64)
    with torch.inference_mode():
        features = model.backbone(images)
    for key, shape in model.backbone.output_shape().items():
        assert features[key].shape[1:] == (shape.channels, *[max(64 // shape.stride, 1)] * 2)
    if "3x" in name:
        assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (270000, (210000, 250000))


def check_optimizer(name: str, optimizer: torch.optim.Optimizer) -> None:
    """Transformers are not trained with SGD."""
    kinds = {"swin": (torch.optim.AdamW, 0.05), "vit": (torch.optim.AdamW, 0.1)}
    expected = next((kinds[key] for key in kinds if key in name), (torch.optim.SGD, None))
    assert type(optimizer) is expected[0]
    if expected[1] is not None:
        assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, expected[1]}
        assert max(group["lr"] for group in optimizer.param_groups) == 1e-4


@pytest.mark.parametrize("name", LAZY)
def test_lazy_examples(name: str) -> None:
    cfg = LazyConfig.load(str(EXAMPLES / name))
    assert {"dataloader", "lr_multiplier", "model", "optimizer", "train"} <= set(cfg)
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    check_optimizer(name, optimizer)
    instantiate(cfg.lr_multiplier)
    if name.startswith("pretrain"):
        assert isinstance(model, ReinforcedClassifier)
        return
    is_pyramid = isinstance(model.backbone, SimpleFeaturePyramid)
    assert isinstance(model.backbone.net if is_pyramid else model.backbone.bottom_up, TimmBackbone)
    assert is_pyramid == ("vit" in name)
    CheckpointLocation.parse(cfg.train.init_checkpoint)
    mappers = (cfg.dataloader.train.mapper, cfg.dataloader.test.mapper)
    assert [mapper.image_format for mapper in mappers] == ["RGB", "RGB"]
    assert model.input_format == "RGB"
    assert model.pixel_std.flatten().tolist() == [255.0] * 3


def test_large_scale_jitter_recipe() -> None:
    cfg = LazyConfig.load(str(EXAMPLES / "mask_rcnn_R_50_FPN_100ep_LSJ.py"))
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (0.1, 4e-5)
    assert cfg.dataloader.train.total_batch_size == 32
    assert cfg.dataloader.train.mapper.augmentations[1].crop_size == [1024, 1024]
    assert cfg.train.max_iter == round(100 * 118287 / 32) == 369647
    assert round(cfg.lr_multiplier.warmup_length * cfg.train.max_iter) == 500
    multiplier = instantiate(cfg.lr_multiplier)
    epochs = {0: 0.01, 1: 1.0, 59: 1.0, 61: 0.1, 83: 0.1, 85: 0.01, 99: 0.01}
    found = {epoch: multiplier(epoch / 100) for epoch in epochs}
    assert found == pytest.approx(epochs)


def test_the_backbone_learns_more_slowly_in_the_long_recipe() -> None:
    pytest.importorskip("detectron2.modeling.backbone.vit", reason="Detectron2 0.6 cannot")
    cfg = LazyConfig.load(str(EXAMPLES / "mask_rcnn_R_50_FPN_100ep_LSJ.py"))
    model = cfg.optimizer.params.model = instantiate(cfg.model)
    groups = {
        id(parameter): group
        for group in instantiate(cfg.optimizer).param_groups
        for parameter in group["params"]
    }
    network = model.backbone.bottom_up.network.features
    rates = {network.layer4[0].conv1.weight: 0.01, model.roi_heads.box_head.fc1.weight: 0.1}
    for parameter, rate in rates.items():
        assert groups[id(parameter)]["lr"] == pytest.approx(rate)
    assert groups[id(network.layer4[0].bn1.weight)]["weight_decay"] == 0
    assert groups[id(model.roi_heads.box_head.fc1.bias)]["weight_decay"] == 0


def test_layers_of_the_vit_learn_at_their_own_rates() -> None:
    pytest.importorskip("detectron2.modeling.backbone.vit", reason="Detectron2 0.6 has none")
    cfg = LazyConfig.load(str(EXAMPLES / "mask_rcnn_vit_B_FPN_100ep_LSJ.py"))
    model = cfg.optimizer.params.model = instantiate(cfg.model)
    rates = {
        id(parameter): group["lr"]
        for group in instantiate(cfg.optimizer).param_groups
        for parameter in group["params"]
    }
    network = model.backbone.net.network.features.model
    expected = {
        network.pos_embed: 13,
        network.patch_embed.backbone[0].conv.weight: 13,
        network.blocks[0].mlp.fc1.weight: 12,
        network.blocks[11].mlp.fc1.weight: 1,
        model.roi_heads.box_head.fc1.weight: 0,
    }
    for parameter, distance in expected.items():
        assert rates[id(parameter)] == pytest.approx(1e-4 * 0.7**distance)
    warmup = cfg.lr_multiplier.warmup_length * cfg.train.max_iter
    assert (cfg.train.max_iter, round(warmup)) == (184375, 250)
