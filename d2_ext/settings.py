"""Sets a configuration up for a checkpoint."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig
from torch import nn

from d2_ext.checkpoints import find_backbones, local_location, read_weights
from d2_ext.classifier import ReinforcedClassifier
from d2_ext.errors import ConfigError
from dr_models.checkpoints import InputConvention
from dr_models.checkpoints.location import SCHEME
from dr_plugins.errors import CheckpointError

_TOP = 255
_MODEL_ZOO = ("detectron2://", "catalog://")


def use_checkpoint(cfg: Any, address: str | os.PathLike[str]) -> InputConvention:
    """Set a checkpoint in a configuration, with the input format it was trained with.

    Sets, in a yacs configuration, ``MODEL.WEIGHTS``, ``MODEL.PIXEL_MEAN``, ``MODEL.PIXEL_STD`` and
    ``INPUT.FORMAT``; in a LazyConfig ``train.init_checkpoint``, the same of ``model``, and
    ``image_format`` of the mappers of ``dataloader``.

    Args:
        cfg: A `CfgNode`, or a LazyConfig with ``model``, ``dataloader`` and ``train``; changed in
            place. Configure its backbone before, since that decides how the checkpoint is read.
        address: ``imagenet-plus://PATH?source=...&arch=...``, or a path or URL, which gets the
            prefix ``imagenet-plus://``.

    Returns:
        The input format that was set.

    Raises:
        CheckpointError: The checkpoint cannot be read, or does not fit the backbone; or the address
            is one of Detectron2's model zoo.
        ConfigError: The configuration is of another type.

    Example:
        >>> use_checkpoint(cfg, "best.pt")                                  # doctest: +SKIP
        >>> use_checkpoint(cfg, "imagenet-plus://best.pt?arch=resnet_50")   # doctest: +SKIP
    """
    address = _with_scheme(os.fspath(address))
    if isinstance(cfg, CfgNode):
        convention = _convention(_build(lambda: _from_yacs(cfg)), address)
        mean, std = convention.for_range(_TOP)
        cfg.MODEL.WEIGHTS, cfg.INPUT.FORMAT = address, "RGB"
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(mean), list(std)
        return convention
    if not isinstance(cfg, DictConfig) or "model" not in cfg or "train" not in cfg:
        raise ConfigError(
            f"expected a CfgNode, or a LazyConfig with model, dataloader and train, but got a "
            f"{type(cfg).__name__}"
        )
    convention = _convention(_build(lambda: _from_lazy(cfg)), address)
    mean, std = convention.for_range(_TOP)
    cfg.train.init_checkpoint = address
    for node in [node for node in _nodes(cfg.model) if "pixel_mean" in node] or [cfg.model]:
        node.pixel_mean, node.pixel_std = list(mean), list(std)
        if "input_format" in node:
            node.input_format = "RGB"
    for node in _nodes(cfg.get("dataloader")):
        if "image_format" in node:
            node.image_format = "RGB"
    return convention


def _with_scheme(address: str) -> str:
    if address.startswith(_MODEL_ZOO):
        raise CheckpointError(
            f"{address} is from Detectron2's model zoo, which Detectron2 loads itself; set "
            f"MODEL.WEIGHTS (lazy: train.init_checkpoint) to it, and the mean, std and channel "
            f"order that the zoo states for it"
        )
    return address if address.startswith(SCHEME) else f"{SCHEME}{address}"


def _from_yacs(cfg: CfgNode) -> nn.Module:
    """Build the module that the checkpoint is loaded into."""
    kind = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if not isinstance(kind, type) or not issubclass(kind, ReinforcedClassifier):
        backbone: nn.Module = build_backbone(cfg)
        return backbone
    plain = cfg.clone()
    plain.defrost()
    # Classifiers refuse other values than their own, and these are not set yet.
    plain.INPUT.FORMAT, plain.MODEL.PIXEL_MEAN, plain.MODEL.PIXEL_STD = "RGB", [], []
    return kind(plain)


def _from_lazy(cfg: DictConfig) -> nn.Module:
    """Build the module that the checkpoint is loaded into."""
    model = copy.deepcopy(cfg).model
    for node in _nodes(model):
        kind = node.get("_target_")
        kind = locate(kind) if isinstance(kind, str) else kind
        if isinstance(kind, type) and issubclass(kind, ReinforcedClassifier):
            node.pixel_mean = node.pixel_std = None  # as in yacs
    module: nn.Module = instantiate(model.get("backbone", model))
    return module


def _build(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a module to inspect it, without changing the state of random generators."""
    try:
        with torch.device("meta"):
            return make()
    except RuntimeError:  # some networks use values of tensors while they are built
        with torch.random.fork_rng(devices=[]):
            return make()


def _convention(module: nn.Module, address: str) -> InputConvention:
    backbone, *_ = find_backbones(module, address).values()
    return read_weights(backbone, local_location(address)).convention


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
