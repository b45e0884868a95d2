"""A configuration that fits a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode
from omegaconf import DictConfig, ListConfig

from d2_ext.checkpoints import local_location
from d2_ext.errors import ConfigError
from dr_plugins.checkpoints import InputConvention, load_backbone

__all__ = ["use_checkpoint"]

_CLASSIFIER = "ReinforcedClassifier"
_TOP = 255


def use_checkpoint(cfg: Any, address: str) -> InputConvention:
    """Name a checkpoint in a configuration, and feed the images that it was trained on.

    Sets, in a yacs configuration, ``MODEL.WEIGHTS``, ``MODEL.PIXEL_MEAN``, ``MODEL.PIXEL_STD`` and
    ``INPUT.FORMAT``; in a LazyConfig ``train.init_checkpoint``, the same of ``model``, and
    ``image_format`` of the mappers of ``dataloader``.

    Args:
        cfg: A `CfgNode`, or a LazyConfig with ``model``, ``dataloader`` and ``train``. It is
            changed.
        address: ``imagenet-plus://PATH?source=...&arch=...``.

    Returns:
        What was set.

    Raises:
        CheckpointError: The checkpoint cannot be read, or is not one for this backbone.
        ConfigError: The configuration is of neither kind.

    Example:
        >>> use_checkpoint(cfg, "imagenet-plus://best.pt?arch=resnet_50")   # doctest: +SKIP
    """
    if isinstance(cfg, CfgNode):
        is_timm = "timm" in cfg.MODEL.BACKBONE.NAME or cfg.MODEL.META_ARCHITECTURE == _CLASSIFIER
        name = cfg.MODEL.DR_TIMM.NAME if is_timm else None
        convention = _read(address, name)
        mean, std = convention.for_range(_TOP)
        cfg.MODEL.WEIGHTS, cfg.INPUT.FORMAT = address, "RGB"
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(mean), list(std)
        return convention
    if not isinstance(cfg, DictConfig) or "model" not in cfg or "train" not in cfg:
        raise ConfigError(
            f"expected a CfgNode, or a LazyConfig with model, dataloader and train, but got a "
            f"{type(cfg).__name__}"
        )
    convention = _read(address, _timm_model(cfg.model))
    mean, std = convention.for_range(_TOP)
    cfg.train.init_checkpoint = address
    cfg.model.pixel_mean, cfg.model.pixel_std = list(mean), list(std)
    if "input_format" in cfg.model:
        cfg.model.input_format = "RGB"
    for node in _nodes(cfg.get("dataloader")):
        if "image_format" in node:
            node.image_format = "RGB"
    return convention


def _read(address: str, timm_model: str | None) -> InputConvention:
    to = "detectron2" if timm_model is None else "timm"
    return load_backbone(local_location(address), to=to, arch=timm_model).convention


def _timm_model(model: Any) -> str | None:
    for node in _nodes(model):
        # LazyConfig keeps the class, or its name once it was saved and loaded.
        if str(getattr(node.get("_target_"), "__name__", node.get("_target_"))).endswith(
            ("TimmBackbone", _CLASSIFIER)
        ):
            return str(node.model)
    return None


def _nodes(config: Any) -> Iterator[DictConfig]:
    if isinstance(config, DictConfig):
        yield config
    keys: list[Any] = []
    if isinstance(config, DictConfig):
        keys = list(config)
    elif isinstance(config, ListConfig):
        keys = list(range(len(config)))
    for key in keys:
        child = config._get_node(key)
        if isinstance(child, DictConfig | ListConfig):
            yield from _nodes(child)
