"""The examples' configs, made small enough for a CPU and pointed at a few photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "mmlab"
DETECTION = sorted(path.name for path in EXAMPLES.glob("mask-rcnn_*.py"))
SEGMENTATION = sorted(
    path.name for kind in ("deeplabv3", "upernet") for path in EXAMPLES.glob(f"{kind}_*.py")
)


def save_weights(config: Any, folder: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """A checkpoint, with random weights, of the network that a config's backbone is."""
    import timm

    import dr_models.networks  # noqa: F401  registers cvnets_*

    backbone = config.model.backbone
    name = backbone.get("model") or f"resnet{backbone.depth}"
    torch.manual_seed(1)
    state = timm.create_model(name, num_classes=3).state_dict()
    path = folder / f"{name}.pt"
    torch.save(state, path)
    return str(path), state


def common(config: Any, folder: Path) -> Any:
    """Without workers, GPUs and whatever is not needed in a short run."""
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        config[name].update(num_workers=0, persistent_workers=False)
    config.env_cfg.dist_cfg = {"backend": "gloo"}
    config.work_dir = str(folder / "work")
    config.launcher = "none"
    config.randomness = {"seed": 1}
    config.optim_wrapper.type = "OptimWrapper"  # bfloat16 takes long on a CPU
    return config


def detection(name: str, photographs: Path, folder: Path, side: int = 96) -> Any:
    """An example for MMDetection, on the COCO instances of `photographs`."""
    config = Config.fromfile(EXAMPLES / name)
    config.default_hooks.backbone.checkpoint, _ = save_weights(config, folder)
    return shrink(config, photographs, folder, side)


def shrink(config: Any, photographs: Path, folder: Path, side: int = 96) -> Any:
    """Any config of Mask R-CNN, on the COCO instances of `photographs`."""
    common(config, folder)
    root = str(photographs / "data_dataset_coco")
    names = (photographs / "data_dataset_voc" / "class_names.txt").read_text().splitlines()[1:]
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        dataset = loader.dataset
        dataset.update(data_root=root, ann_file="annotations.json", metainfo={"classes": names})
        dataset.data_prefix = {"img": ""}
        for step in dataset.pipeline:
            if step.type == "Resize":
                step.scale = (side, side)
            if step.type == "RandomChoiceResize":
                assert min(step.scales) == (512, 512)
                assert max(step.scales) == (1280, 1280)
                step.scales = [(side, side), (side + 32, side + 32)]
    for evaluator in (config.val_evaluator, config.test_evaluator):
        evaluator.ann_file = f"{root}/annotations.json"
    config.train_dataloader.batch_size = 2
    training = config.model.train_cfg
    training.rpn_proposal.update(nms_pre=100, max_per_img=50)
    training.rcnn.sampler.num = 16
    head = config.model.roi_head
    head.bbox_head.num_classes = head.mask_head.num_classes = len(names)
    return config


def segmentation(name: str, photographs: Path, folder: Path, side: int = 64) -> Any:
    """An example for MMSegmentation, on the class masks of `photographs`."""
    config = common(Config.fromfile(EXAMPLES / name), folder)
    checkpoint, _ = save_weights(config, folder)
    config.default_hooks.backbone.checkpoint = checkpoint
    config.model.data_preprocessor.size = (side, side)
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        dataset = loader.dataset
        dataset.data_root = str(photographs / "data_dataset_voc")
        dataset.data_prefix = {"img_path": "JPEGImages", "seg_map_path": "SegmentationClass"}
        for step in dataset.pipeline:
            if step.type in ("Resize", "RandomResize"):
                by_ratio = "ratio_range" in step or step.type == "Resize"
                step.scale = (4 * side, side) if by_ratio else [(2 * side, side)] * 2
            if step.type == "RandomCrop":
                step.crop_size = (side, side)
    config.train_dataloader.batch_size = 2
    return config


def small(name: str, photographs: Path, folder: Path) -> Any:
    """An example by the name of its file."""
    make = detection if name in DETECTION else segmentation
    return make(name, photographs, folder)
