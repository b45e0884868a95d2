"""DeepLab of Detectron2's projects on a dilated timm network, on photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2")
pytest.importorskip("timm")
pytest.importorskip("detectron2.projects.deeplab")

from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import SemSegEvaluator
from detectron2.projects import deeplab

import d2_ext
from tests.d2_ext.conftest import Saved

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "detectron2"


class Trainer(DefaultTrainer):
    """As DeepLab's own."""

    @classmethod
    def build_lr_scheduler(cls, cfg: Any, optimizer: Any) -> Any:
        return deeplab.build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_evaluator(cls, cfg: Any, dataset_name: str) -> SemSegEvaluator:
        return SemSegEvaluator(dataset_name, distributed=False, output_dir=cfg.OUTPUT_DIR)


@pytest.fixture(scope="module")
def segments(labelme: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, out = labelme / "data_dataset_voc", tmp_path_factory.mktemp("segments")
    items = []
    for path in sorted((folder / "SegmentationClassNpy").glob("*.npy")):
        labels = np.load(path)
        labels[labels < 0] = 255
        Image.fromarray(labels.astype(np.uint8)).save(out / f"{path.stem}.png")
        items.append(
            {
                "file_name": str(folder / "JPEGImages" / f"{path.stem}.jpg"),
                "sem_seg_file_name": str(out / f"{path.stem}.png"),
                "image_id": path.stem,
                "height": labels.shape[0],
                "width": labels.shape[1],
            }
        )
    DatasetCatalog.register("labelme_segments", lambda: items)
    names = (folder / "class_names.txt").read_text().split()
    MetadataCatalog.get("labelme_segments").set(
        stuff_classes=names, ignore_label=255, evaluator_type="sem_seg"
    )
    return "labelme_segments"


def test_train_and_evaluate(
    segments: str, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (int, float):  # NumPy had these names when Detectron2 0.6 was made
        monkeypatch.setattr(np, kind.__name__, kind, raising=False)
    _, path = saved("resnet18")
    cfg = get_cfg()
    d2_ext.add_dr_plugins_config(cfg)
    deeplab.add_deeplab_config(cfg)
    cfg.merge_from_file(str(EXAMPLES / "deeplab_v3_plus_cvnets_R_50.yaml"))
    cfg.MODEL.DR_TIMM.NAME = "resnet18"
    d2_ext.use_checkpoint(cfg, f"imagenet-plus://{path}")
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "DATASETS.TRAIN", (segments,), "DATASETS.TEST", (segments,)),
            *("MODEL.SEM_SEG_HEAD.NORM", "BN", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 21),
            *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 16, "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", 16),
            *("INPUT.MIN_SIZE_TRAIN", (128,), "INPUT.MIN_SIZE_TEST", 96),
            *("INPUT.CROP.ENABLED", False, "INPUT.MAX_SIZE_TRAIN", 192),
            *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 3, "DATALOADER.NUM_WORKERS", 0),
            *("OUTPUT_DIR", str(tmp_path), "MODEL.SEM_SEG_HEAD.LOSS_TYPE", "cross_entropy"),
        ]
    )  # fmt: skip
    trainer = Trainer(cfg)
    shapes = trainer.model.backbone.output_shape()
    assert {name: shape.stride for name, shape in shapes.items()} == {"res2": 4, "res5": 16}
    trainer.resume_or_load(resume=False)
    assert trainer.model.backbone.network.is_loaded
    trainer.train()
    found = trainer._last_eval_results["sem_seg"]
    assert 0 <= found["mIoU"] <= 100
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert torch.tensor(losses).isfinite().all()
