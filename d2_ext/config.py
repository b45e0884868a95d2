"""The keys of yacs configurations; LazyConfig files pass the same values as arguments."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from d2_ext.errors import ConfigError

__all__ = ["add_dr_plugins_config", "reinforced_node", "timm_node", "timm_options"]


def add_dr_plugins_config(cfg: Any) -> None:
    """Add ``MODEL.DR_TIMM`` and ``REINFORCED``; a second call changes nothing.

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
    # A model of timm, or one of dr_models (cvnets_resnet50).
    node.NAME = "resnet50"
    # Features that a backbone without neck gives; empty for all that it has.
    node.OUT_FEATURES = []
    # "" or "BN" (as timm has it), "FrozenBN" or "SyncBN".
    node.NORM = ""
    # Compute activations again in the backward pass, to save memory.
    node.GRAD_CHECKPOINTING = False
    # Of classifiers only.
    node.NUM_CLASSES = 1000
    # More arguments for timm.create_model, such as drop_path_rate and output_stride.
    node.OPTIONS = CfgNode(new_allowed=True)
    return node


def _reinforced() -> CfgNode:
    node = CfgNode()
    # The shard set of DATASETS.TRAIN, whose names are then folders of images, or
    # torchvision:NAME:ROOT. The images of DATASETS.TEST are named likewise.
    node.SHARDS = ""
    # A text file that names a folder in each line, in the order of the classes; needed where they
    # are not numbered by name, or only some are there. Also for the images of DATASETS.TEST.
    node.CLASS_MAP = ""
    # Probability of a reinforcement; other images come plain.
    node.P = 0.99
    # Where the probability that is not stored goes: "smooth" or "zeros".
    node.DENSIFY = "smooth"
    # Of the choice of reinforcements and of the order of images.
    node.SEED = 0
    # When a view is not what the teacher saw: "error", "warn" or "off".
    node.CHECK = "error"
    # Side in pixels that the student sees; 0 takes that of the stored views.
    node.SIZE = 0
    # Leave flips, RandAugment, erasing and mixing to the device of the model: of use for a GPU.
    node.DEFER = False
    # Part of the resized shorter side that the centre crop for evaluation keeps.
    node.CROP_PCT = 0.875
    # That of the stored answers.
    node.TEMPERATURE = 1.0
    # Share of the cross-entropy with the image's own label in the loss.
    node.LABEL_WEIGHT = 0.0
    return node
