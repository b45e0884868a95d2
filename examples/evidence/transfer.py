"""Pretrained backbones in the frameworks' own segmentation and detection models, and in timm's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from filelock import FileLock

from examples.evidence.finetuning import finetune
from examples.evidence.grid import Training
from examples.evidence.models import MEAN, RECIPES, STD
from examples.evidence.scenes import CLASSES, SIDE, make_scenes
from examples.evidence.tasks import prepare
from examples.evidence.training import measure, train
from examples.evidence.views import load_test

_MODEL = "evidence_resnet10"
_CHANNELS = [16, 32, 64, 128]
_BATCH, _STEPS, _LR = 8, 600, 0.02
_WARMUP = 1 / 12
_PRETRAINING = Training("backbone", 2000, "", epochs=60, samples=60)


def pretrained_backbone(method: str, seed: int, cache: Path) -> Path | None:
    """Return the weights of a pretrained backbone, trained first if need be; None for "none"."""
    if method == "none":
        return None
    run = replace(_PRETRAINING, method=method, seed=seed)
    path = cache / "backbones" / f"{run.name}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            model, _ = train(prepare(run, cache))
            torch.save(model.get_submodule("1").state_dict(), path)
    return path


def transfer(host: str, weights: Path | None, seed: int, cache: Path) -> dict[str, Any]:
    """Train a framework's model on other images and evaluate it.

    Args:
        host: Of `HOSTS`.
        weights: Of the backbone; None trains from random weights.
        seed: Of the head's weights and the order of images.
        cache: Of what can be made again.

    Returns:
        ``transfer``: metrics of the framework's own evaluator, in percent.
    """
    with TemporaryDirectory() as work:
        found = HOSTS[host](cache, weights, seed, work)
    return {"transfer": {name: round(float(value), 3) for name, value in found.items()}}


def _mmseg(cache: Path, weights: Path | None, seed: int, work: str) -> dict[str, float]:
    """DeepLabV3 (Chen et al., 2017) on the classes of pixels: mIoU."""
    import mmseg.datasets
    import mmseg.evaluation
    import mmseg.models  # noqa: F401 - these three register

    root = make_scenes(cache / "scenes")
    load = [{"type": "LoadImageFromFile"}]
    annotations = {"type": "LoadAnnotations"}
    pack = {"type": "PackSegInputs"}
    return _openmmlab(
        {
            "default_scope": "mmseg",
            "model": {
                "type": "EncoderDecoder",
                "data_preprocessor": {
                    "type": "SegDataPreProcessor",
                    "size": (SIDE, SIDE),
                    "seg_pad_val": 255,
                    **_NORMALIZATION,
                },
                "backbone": {**_BACKBONE, "output_stride": 16},
                "decode_head": {
                    "type": "ASPPHead",
                    "in_channels": _CHANNELS[-1],
                    "in_index": 3,
                    "channels": 64,
                    "dilations": (1, 2, 4),
                    "num_classes": len(CLASSES) + 1,
                    "norm_cfg": {"type": "BN"},
                },
                "test_cfg": {"mode": "whole"},
            },
            "train_dataloader": _loader(
                _semantic(root, "train", [*load, annotations, _FLIP, pack]), True
            ),
            "val_dataloader": _loader(_semantic(root, "val", [*load, annotations, pack]), False),
            "val_evaluator": {"type": "IoUMetric", "iou_metrics": ["mIoU"]},
        },
        weights,
        seed,
        work,
        {"mIoU": "mIoU"},
    )


def _semantic(root: Path, split: str, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "BaseSegDataset",
        "data_root": str(root),
        "data_prefix": {"img_path": f"images/{split}", "seg_map_path": f"classes/{split}"},
        "img_suffix": ".png",
        "seg_map_suffix": ".png",
        "metainfo": {"classes": ("background", *CLASSES)},
        "reduce_zero_label": False,
        "pipeline": pipeline,
    }


def _mmdet(cache: Path, weights: Path | None, seed: int, work: str) -> dict[str, float]:
    """Mask R-CNN (He et al., 2017) of MMDetection: box and mask mAP."""
    import mmdet
    from mmengine.config import Config

    base = "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
    config = Config.fromfile(f"{mmdet.__path__[0]}/.mim/configs/{base}").to_dict()
    model = config["model"]
    model["data_preprocessor"].update(_NORMALIZATION)
    model["backbone"] = _BACKBONE
    model["neck"].update(in_channels=_CHANNELS, out_channels=64)
    model["rpn_head"].update(in_channels=64, feat_channels=64)
    model["rpn_head"]["anchor_generator"]["scales"] = [4]
    heads = model["roi_head"]
    heads["bbox_roi_extractor"]["out_channels"] = heads["mask_roi_extractor"]["out_channels"] = 64
    heads["bbox_head"].update(in_channels=64, fc_out_channels=256, num_classes=len(CLASSES))
    heads["mask_head"].update(in_channels=64, conv_out_channels=64, num_classes=len(CLASSES))
    model["train_cfg"]["rpn_proposal"].update(nms_pre=200, max_per_img=100)
    model["train_cfg"]["rcnn"]["sampler"]["num"] = 64
    model["test_cfg"]["rpn"].update(nms_pre=200, max_per_img=100)
    root = make_scenes(cache / "scenes")
    load = [{"type": "LoadImageFromFile"}]
    annotations = {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}
    pack = {"type": "PackDetInputs"}
    meta = {"meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")}
    scale = {"type": "Resize", "scale": (SIDE, SIDE), "keep_ratio": True}
    return _openmmlab(
        {
            "default_scope": "mmdet",
            "model": model,
            "train_dataloader": _loader(
                _instances(root, "train", [*load, annotations, _FLIP, pack]), True
            ),
            "val_dataloader": _loader(
                _instances(root, "val", [*load, scale, annotations, {**pack, **meta}]), False
            ),
            "val_evaluator": {
                "type": "CocoMetric",
                "ann_file": str(root / "val.json"),
                "metric": ["bbox", "segm"],
            },
        },
        weights,
        seed,
        work,
        {"box mAP": "coco/bbox_mAP", "mask mAP": "coco/segm_mAP"},
        scale=100,
    )


def _instances(root: Path, split: str, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "CocoDataset",
        "data_root": str(root),
        "ann_file": f"{split}.json",
        "data_prefix": {"img": f"images/{split}"},
        "metainfo": {"classes": CLASSES},
        "pipeline": pipeline,
    }


_NORMALIZATION = {
    "mean": [255 * value for value in MEAN],
    "std": [255 * value for value in STD],
    "bgr_to_rgb": True,
}
_BACKBONE = {"type": "mmengine.TimmFeatures", "model": _MODEL, "out_indices": (1, 2, 3, 4)}
_FLIP = {"type": "RandomFlip", "prob": 0.5}


def _loader(dataset: dict[str, Any], training: bool) -> dict[str, Any]:
    sampler = "InfiniteSampler" if training else "DefaultSampler"
    return {
        "batch_size": _BATCH,
        "num_workers": 0,
        "sampler": {"type": sampler, "shuffle": training},
        "dataset": dataset,
    }


def _openmmlab(
    config: dict[str, Any],
    weights: Path | None,
    seed: int,
    work: str,
    metrics: dict[str, str],
    scale: float = 1.0,
) -> dict[str, float]:
    from mmengine.config import Config
    from mmengine.runner import Runner

    import mmlab_ext  # noqa: F401 - registers

    warmup = int(_WARMUP * _STEPS)
    common = {
        "work_dir": work,
        "experiment_name": Path(work).name,
        "train_cfg": {"by_epoch": False, "max_iters": _STEPS, "val_interval": _STEPS},
        "val_cfg": {},
        "optim_wrapper": {
            "optimizer": {"type": "SGD", "lr": _LR, "momentum": 0.9, "weight_decay": 1e-4},
            "clip_grad": {"max_norm": 10},
        },
        "param_scheduler": [
            {"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "end": warmup},
            {"type": "CosineAnnealingLR", "by_epoch": False, "begin": warmup, "end": _STEPS},
        ],
        "default_hooks": {"checkpoint": None},
        "custom_hooks": []
        if weights is None
        else [{"type": "ReinforcedBackboneHook", "checkpoint": str(weights)}],
        "randomness": {"seed": seed},
        "log_level": "WARNING",
    }
    runner = Runner.from_cfg(Config({**config, **common}))
    runner.train()
    found = runner.val_loop.run()
    return {name: scale * found[key] for name, key in metrics.items()}


def _detectron2(cache: Path, weights: Path | None, seed: int, work: str) -> dict[str, float]:
    """Mask R-CNN (He et al., 2017) of Detectron2: box and mask mAP."""
    from detectron2 import model_zoo
    from detectron2.config import get_cfg
    from detectron2.data import DatasetCatalog
    from detectron2.data.datasets import register_coco_instances
    from detectron2.engine import DefaultTrainer
    from detectron2.evaluation import COCOEvaluator

    import d2_ext

    root = make_scenes(cache / "scenes")
    for split in ("train", "val"):
        if f"scenes_{split}" not in DatasetCatalog:
            images = root / "images" / split
            register_coco_instances(f"scenes_{split}", {}, str(root / f"{split}.json"), str(images))
    cfg = get_cfg()
    d2_ext.add_dr_plugins_config(cfg)
    base = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
    cfg.merge_from_file(model_zoo.get_config_file(base))
    cfg.merge_from_list(
        [
            *("OUTPUT_DIR", work, "SEED", seed),
            *("MODEL.DEVICE", "cuda" if torch.cuda.is_available() else "cpu"),
            *("MODEL.WEIGHTS", "" if weights is None else f"imagenet-plus://{weights}"),
            *("MODEL.BACKBONE.NAME", "build_dr_timm_fpn_backbone", "MODEL.BACKBONE.FREEZE_AT", 0),
            *("MODEL.DR_TIMM.NAME", _MODEL, "MODEL.FPN.OUT_CHANNELS", 64),
            *("MODEL.PIXEL_MEAN", _NORMALIZATION["mean"]),
            *("MODEL.PIXEL_STD", _NORMALIZATION["std"], "INPUT.FORMAT", "RGB"),
            *("MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64], [128], [256]]),
            *("MODEL.ROI_HEADS.NUM_CLASSES", len(CLASSES)),
            *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 64),
            *("MODEL.ROI_BOX_HEAD.FC_DIM", 256, "MODEL.ROI_MASK_HEAD.CONV_DIM", 64),
            *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 100, "MODEL.RPN.POST_NMS_TOPK_TEST", 100),
            *("INPUT.MASK_FORMAT", "bitmask", "INPUT.MIN_SIZE_TRAIN", (SIDE,)),
            *("INPUT.MIN_SIZE_TEST", SIDE, "DATALOADER.NUM_WORKERS", 0),
            *("DATASETS.TRAIN", ("scenes_train",), "DATASETS.TEST", ("scenes_val",)),
            *("SOLVER.IMS_PER_BATCH", _BATCH, "SOLVER.BASE_LR", _LR, "SOLVER.MAX_ITER", _STEPS),
            *(
                "SOLVER.LR_SCHEDULER_NAME",
                "WarmupCosineLR",
                "SOLVER.WARMUP_ITERS",
                int(_WARMUP * _STEPS),
            ),
            *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
            *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 10.0, "TEST.EVAL_PERIOD", 0),
        ]
    )
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    evaluator = COCOEvaluator("scenes_val", output_dir=work)
    found = DefaultTrainer.test(cfg, trainer.model, [evaluator])
    return {"box mAP": found["bbox"]["AP"], "mask mAP": found["segm"]["AP"]}


def _pretraining(cache: Path, weights: Path | None, seed: int, work: str) -> dict[str, float]:
    """The backbone with the classifier of its pretraining, on the 10,000 test images."""
    model = RECIPES["backbone"].build()
    if weights is not None:
        model.get_submodule("1").load_state_dict(torch.load(weights))
    found = measure(model, *load_test())
    return {"accuracy": 100 * found["accuracy"], "ECE": 100 * found["ece"]}


HOSTS: dict[str, Callable[[Path, Path | None, int, str], dict[str, float]]] = {
    "mmseg": _mmseg,
    "mmdet": _mmdet,
    "detectron2": _detectron2,
    "timm": finetune,
    "pretraining": _pretraining,
}
