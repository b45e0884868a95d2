"""Detectron2 with what a test machine lacks, photographs with masks, and small networks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.d2_ext import stand_ins

HAS_DETECTRON2 = importlib.util.find_spec("detectron2") is not None
if HAS_DETECTRON2:
    stand_ins.install()

Yacs = Callable[..., Any]  # the fixtures of these names
Saved = Callable[..., tuple[Any, Path]]
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@pytest.fixture(scope="session")
def coco(labelme: Path) -> str:
    """Name of a registered COCO dataset of three photographs."""
    from detectron2.data.datasets import register_coco_instances

    stand_ins.use_python_evaluation()
    folder = labelme / "data_dataset_coco"
    register_coco_instances("labelme", {}, str(folder / "annotations.json"), str(folder))
    return "labelme"


def random_network(name: str, **options: Any) -> torch.nn.Module:
    """A timm network whose statistics are not those of an untouched one."""
    import timm

    import dr_models.networks  # noqa: F401
    from tests.dr_models.checkpoints.networks import randomised

    torch.manual_seed(0)
    return randomised(timm.create_model(name, **options))


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Makes a random timm network and its checkpoint, once for each name."""
    made: dict[str, tuple[Any, Path]] = {}
    folder = tmp_path_factory.mktemp("networks")

    def get(name: str, **options: Any) -> tuple[Any, Path]:
        key = f"{name}{sorted(options.items())}"
        if key not in made:
            network, path = random_network(name, **options), folder / f"{len(made)}.pth"
            torch.save(network.state_dict(), path)
            made[key] = network, path
        return made[key]

    return get


@pytest.fixture
def yacs(tmp_path: Path) -> Yacs:
    """A small configuration of Mask R-CNN: keys and values as arguments."""

    def get(*options: Any) -> Any:
        from detectron2 import model_zoo
        from detectron2.config import get_cfg

        import d2_ext

        cfg = get_cfg()
        d2_ext.add_dr_plugins_config(cfg)
        cfg.merge_from_file(
            model_zoo.get_config_file("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
        )
        cfg.merge_from_list([*SMALL, "OUTPUT_DIR", str(tmp_path / "run"), *options])
        return cfg

    return get


SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "INPUT.FORMAT", "RGB"),
    *("MODEL.PIXEL_MEAN", MEAN, "MODEL.PIXEL_STD", STD),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 21, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 32, "MODEL.RPN.POST_NMS_TOPK_TEST", 16),
    *("MODEL.FPN.OUT_CHANNELS", 32, "MODEL.ROI_BOX_HEAD.FC_DIM", 32),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 16, "MODEL.ROI_MASK_HEAD.NUM_CONV", 1),
    *("INPUT.MIN_SIZE_TRAIN", (96,), "INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TRAIN", 128),
    *("INPUT.MAX_SIZE_TEST", 128, "DATASETS.TRAIN", ("labelme",), "DATASETS.TEST", ("labelme",)),
    *("DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 0.001),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "SOLVER.WARMUP_ITERS", 0),
    *("SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (), "MODEL.RESNETS.STRIDE_IN_1X1", False),
]

TIMM = ("MODEL.BACKBONE.NAME", "build_dr_timm_fpn_backbone", "MODEL.DR_TIMM.NAME", "resnet18")
NATIVE = ("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64)
