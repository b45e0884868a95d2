"""ImageNet+ checkpoints where Detectron2 expects its own: ``imagenet-plus://PATH?source=&arch=``.

`DetectionCheckpointer` only warns when nothing in a file fits the model, and training goes on from
random weights. What begins with ``imagenet-plus://`` is therefore loaded here: whole, and checked
against the model's input, or not at all.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling.backbone import ResNet
from detectron2.utils.file_io import PathHandler, PathManager
from torch import nn

from d2_ext.backbones import TimmBackbone
from d2_ext.classifier import ReinforcedClassifier
from d2_ext.inputs import check_inputs
from d2_ext.messages import logger
from d2_ext.resnets import load_resnet
from dr_plugins.checkpoints import BackboneWeights, CheckpointLocation, load_backbone
from dr_plugins.checkpoints.location import SCHEME
from dr_plugins.errors import CheckpointError

__all__ = ["ImageNetPlusHandler", "load_reinforced", "local_location", "register_checkpoints"]

_MARK = "_loads_imagenet_plus"


class ImageNetPlusHandler(PathHandler):
    """Gives ``imagenet-plus://`` addresses as local files in Detectron2's layout.

    This is for programs that read files through `PathManager`. `DetectionCheckpointer` needs to
    know the model besides, see `load_reinforced`.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [SCHEME]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        """Convert a plain ResNet to a temporary file, which Detectron2 reads as its own.

        Raises:
            CheckpointError: See `load_backbone`.
        """
        return _converted(path)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        if mode != "rb":
            raise CheckpointError(f"{path} can only be read, as bytes: mode is {mode!r}")
        return open(self._get_local_path(path), mode)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return local_location(path).file.is_file()

    _exists = _isfile


def register_checkpoints() -> None:
    """Teach `PathManager` and `DetectionCheckpointer` the addresses; a second call changes nothing.

    One method is replaced, `DetectionCheckpointer.load`, because nothing else knows both the model
    and the address, and because Detectron2's main branch takes the options off an address before a
    handler sees it. Other addresses go to the original.
    """
    PathManager.register_handler(ImageNetPlusHandler(), allow_override=True)
    original = DetectionCheckpointer.load
    if not hasattr(original, _MARK):
        DetectionCheckpointer.load = _loading(original)


def _loading(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def load(self: DetectionCheckpointer, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if isinstance(path, str) and path.startswith(SCHEME):
            trainer = self.checkpointables.get("trainer")
            load_reinforced(self.model, path, trainer)
            return {}
        loaded = cast("dict[str, Any]", original(self, path, *args, **kwargs))
        if path:
            _check_loaded(self.model, path)
        return loaded

    setattr(load, _MARK, True)
    return load


def load_reinforced(model: nn.Module, address: str, trainer: Any = None) -> list[BackboneWeights]:
    """Load a checkpoint into the backbone of a model, whole or not at all.

    `DetectionCheckpointer.load` calls this for addresses that begin with ``imagenet-plus://``.

    Args:
        model: With a `TimmBackbone`, a ResNet of Detectron2, or a `ReinforcedClassifier`.
        address: See `CheckpointLocation.parse`; its path may be one that `PathManager` knows.
        trainer: Whose configuration and data loader are looked at as well, see `check_inputs`.

    Returns:
        What was read, for each backbone.

    Raises:
        CheckpointError: The model has no such backbone; the checkpoint is of another network; a
            tensor is missing, left over, or of another shape; the model is fed other images than
            those that the network was trained on.
    """
    location = local_location(address)
    backbones = _find_backbones(model)
    if not backbones:
        found = type(getattr(model, "backbone", model)).__name__
        raise CheckpointError(
            f"{address} has no place in {type(model).__name__}: its backbone is a {found}. Set "
            f"MODEL.BACKBONE.NAME to 'build_dr_timm_fpn_backbone' (lazy: d2_ext.TimmBackbone), or "
            f"to Detectron2's 'build_resnet_fpn_backbone'"
        )
    weights = []
    for name, backbone in backbones.items():
        if isinstance(backbone, ResNet):
            read = load_backbone(location, to="detectron2")
            check_inputs(model, read.convention, address, trainer, name)
            load_resnet(model, name, read, address)
        else:
            read = _load_timm(model, name, location, address, trainer)
        logger.info(
            "%s: %s was loaded into %s, all of whose tensors it holds",
            address,
            read.report.arch,
            name or "the model",
        )
        weights.append(read)
    return weights


def local_location(address: str) -> CheckpointLocation:
    """The checkpoint that an address names, with a path that this machine can open."""
    location = CheckpointLocation.parse(address)
    if "://" in location.path:
        return replace(location, path=PathManager.get_local_path(location.path))
    return location


def _find_backbones(model: nn.Module) -> dict[str, nn.Module]:
    kinds = (TimmBackbone, ReinforcedClassifier, ResNet)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def _load_timm(
    model: nn.Module,
    name: str,
    location: CheckpointLocation,
    address: str,
    trainer: Any,
) -> BackboneWeights:
    backbone = model.get_submodule(name)
    network: Any = backbone.network if isinstance(backbone, TimmBackbone) else backbone
    arch = network.model if isinstance(backbone, TimmBackbone) else network.name
    read = load_backbone(location, to="timm", arch=arch, options=network.options)
    check_inputs(model, read.convention, address, trainer, name)
    if isinstance(backbone, TimmBackbone):
        backbone.network.load_state_dict(backbone.network.adapt(read.state), strict=True)
    else:
        cast(ReinforcedClassifier, backbone).load_whole(read.state, address)
    return read


def _check_loaded(model: nn.Module, path: str) -> None:
    """After Detectron2's own loading, which says nothing about a backbone without weights."""
    for name, module in model.named_modules():
        if isinstance(module, TimmBackbone) and not module.network.is_loaded:
            raise CheckpointError(
                f"{path} does not hold all weights of {name or 'the model'} "
                f"({module.network.model}): it would train from scratch. If the file is a "
                f"checkpoint of a classifier, write {SCHEME}{path}"
            )


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="imagenet-plus-")  # removed when the process ends


@functools.cache
def _converted(address: str) -> str:
    read = load_backbone(local_location(address), to="detectron2")
    # Detectron2 may execute what is in a .pkl, and takes one for a file of Caffe2 if it does not
    # know better; a .pth it loads with torch.load, and matches names from their ends on request.
    path = Path(_folder().name, f"{len(list(Path(_folder().name).iterdir()))}.pth")
    torch.save({"model": read.state, "matching_heuristics": True}, path)
    return str(path)
