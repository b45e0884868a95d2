"""Keys for yacs configurations; LazyConfig files pass the same values as arguments."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from d2_ext.errors import ConfigError


def add_dr_plugins_config(cfg: Any) -> None:
    """Add ``MODEL.DR_TIMM`` and ``REINFORCED``; idempotent.

    Args:
        cfg: A `CfgNode` of `detectron2.config.get_cfg`.

    Example:
        >>> from detectron2.config import get_cfg
        >>> cfg = get_cfg()
        >>> add_dr_plugins_config(cfg)
        >>> cfg.MODEL.DR_TIMM.NAME, cfg.REINFORCED.P
        ('resnet50', 0.99)
    """
    if "DR_TIMM" not in cfg.MODEL:
        cfg.MODEL.DR_TIMM = _timm()
    if "REINFORCED" not in cfg:
        cfg.REINFORCED = _reinforced()


def timm_node(cfg: Any) -> Any:
    """``cfg.MODEL.DR_TIMM``.

    Raises:
        ConfigError: It is not there.
    """
    if "DR_TIMM" not in cfg.MODEL:
        raise _missing("MODEL.DR_TIMM")
    return cfg.MODEL.DR_TIMM


def timm_options(node: Any) -> dict[str, Any]:
    """``MODEL.DR_TIMM.OPTIONS`` as arguments for `timm.create_model`."""
    return {key: value for key, value in node.OPTIONS.items() if value is not None}


def reinforced_node(cfg: Any) -> Any:
    """``cfg.REINFORCED``.

    Raises:
        ConfigError: It is not there.
    """
    if "REINFORCED" not in cfg:
        raise _missing("REINFORCED")
    return cfg.REINFORCED


def _missing(node: str) -> ConfigError:
    return ConfigError(
        f"{node} is not in the configuration: call d2_ext.add_dr_plugins_config(cfg) after "
        f"get_cfg(), or start the program with DETECTRON2_ENV_MODULE=d2_ext"
    )


def _timm() -> CfgNode:
    node = CfgNode()
    # Name of a timm model, or of one from dr_models (cvnets_resnet50).
    node.NAME = "resnet50"
    # Features of a backbone without neck; empty for all.
    node.OUT_FEATURES = []
    # "" or "BN" (timm's), "FrozenBN" or "SyncBN".
    node.NORM = ""
    # Recompute activations in the backward pass, to save memory.
    node.GRAD_CHECKPOINTING = False
    # For classifiers only.
    node.NUM_CLASSES = 1000
    # More arguments for timm.create_model, such as drop_path_rate and output_stride.
    node.OPTIONS = CfgNode(new_allowed=True)
    return node


def _reinforced() -> CfgNode:
    node = CfgNode()
    # The shard set. DATASETS.TRAIN and DATASETS.TEST then name folders of images, or
    # torchvision:NAME:ROOT.
    node.SHARDS = ""
    # A text file with one class folder per line, in label order; needed if folders are not numbered
    # by name, or if some are missing. Also used for DATASETS.TEST.
    node.CLASS_MAP = ""
    # Probability of a reinforcement; other images are plain.
    node.P = 0.99
    # How to spread the probability that is not stored: "smooth" or "zeros".
    node.DENSIFY = "smooth"
    # Of the choice of reinforcements and of the order of images.
    node.SEED = 0
    # If a view is not what the teacher saw: "error", "warn" or "off".
    node.CHECK = "error"
    # Side of the student's images in pixels; 0 for the size of the stored views.
    node.SIZE = 0
    # Leave flips, RandAugment, erasing and mixing to the model's device, for GPUs.
    node.DEFER = False
    # A text file with the keys of images to leave out, one a line.
    node.SKIP = ""
    # Size of evaluation's centre crop as a fraction of the resized shorter side.
    node.CROP_PCT = 0.875
    # Of evaluation's resizing: "bilinear" or "bicubic".
    node.INTERPOLATION = "bilinear"
    # The loss: KDLoss, another name, or MODULE:CLASS; with options in brackets.
    node.LOSS = "KDLoss"
    # Of the stored answers.
    node.TEMPERATURE = 1.0
    # Weight of the cross-entropy to the image's label in the loss.
    node.LABEL_WEIGHT = 0.0
    return node
