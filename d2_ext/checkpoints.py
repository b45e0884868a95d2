"""ImageNet+ checkpoints where Detectron2 expects its own: ``imagenet-plus://PATH?source=&arch=``.

`DetectionCheckpointer` only warns when nothing in a file fits the model, and training goes on from
random weights. What begins with ``imagenet-plus://`` is therefore loaded here: whole, and checked
against the model's input, or not at all.
"""

from __future__ import annotations

import fnmatch
import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
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
from d2_ext.last_stage import find_last_stages, timm_last_stage
from d2_ext.messages import logger
from d2_ext.resnets import resnet_parts
from dr_models.checkpoints import BackboneWeights, CheckpointLocation, load_backbone
from dr_models.checkpoints.location import SCHEME
from dr_plugins.errors import BackboneError, CheckpointError

__all__ = [
    "ImageNetPlusHandler",
    "find_backbones",
    "load_reinforced",
    "local_location",
    "read_weights",
    "register_checkpoints",
]

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

    Example:
        >>> register_checkpoints()
        >>> PathManager.exists("imagenet-plus://missing.pt")
        False
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
            _check_loaded(self, path)
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
            tensor is missing, left over, or of another shape; the last stage of a C4 model, which
            is in its heads, cannot be filled; the model is fed other images than those that the
            network was trained on.

    Example:
        >>> (weights,) = load_reinforced(model, "imagenet-plus://best.pt")  # doctest: +SKIP
        >>> weights.report.arch                                             # doctest: +SKIP
        'resnet_50'
    """
    location = local_location(address)
    may_be_new = _new_keys(model, location, address)
    backbones = find_backbones(model, address)
    owners = find_last_stages(model, backbones)
    weights = []
    for name, backbone in backbones.items():
        read = read_weights(backbone, location)
        check_inputs(model, read.convention, address, trainer, name)
        stages = [stage for stage, owner in owners.items() if owner == name]
        if isinstance(backbone, ResNet):
            parts = resnet_parts(model, name, stages, read, address, may_be_new)
        elif isinstance(backbone, TimmBackbone):
            parts = _timm_parts(model, name, stages, read, address, may_be_new)
        else:
            state = cast(ReinforcedClassifier, backbone).whole_state(read.state, address)
            parts = {f"{name}.model".lstrip("."): state}
        for part, state in parts.items():
            model.get_submodule(part).load_state_dict(state, strict=False)
        logger.info(
            "%s: %s was loaded into %s, %d tensors",
            address,
            read.report.arch,
            " and ".join(part or "the model" for part in parts),
            sum(map(len, parts.values())),
        )
        weights.append(read)
    return weights


def _new_keys(
    model: nn.Module, location: CheckpointLocation, address: str
) -> Callable[[str], bool]:
    """Whether the checkpoint may lack a tensor of the model."""
    own = model.state_dict()
    for pattern in location.new_keys:
        if not fnmatch.filter(own, pattern):
            raise CheckpointError(
                f"{address}: new_keys has {pattern!r}, which fits no tensor of the model; write "
                f"names as its state_dict() does, such as {max(own, key=len)}"
            )
    return lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in location.new_keys)


def _timm_parts(
    model: nn.Module,
    name: str,
    stages: Sequence[str],
    read: BackboneWeights,
    address: str,
    may_be_new: Callable[[str], bool],
) -> dict[str, Mapping[str, torch.Tensor]]:
    """The tensors of a timm backbone, and of its last stage where heads have it."""
    backbone = cast(TimmBackbone, model.get_submodule(name))
    network = backbone.network
    parts: dict[str, Mapping[str, torch.Tensor]] = {
        f"{name}.network".lstrip("."): network.adapt(read.state)
    }
    for stage in () if backbone.has_last_stage else stages:
        module = model.get_submodule(stage)
        if all(may_be_new(f"{stage}.{key}") for key in module.state_dict()):
            continue
        try:
            parts[stage] = timm_last_stage(network.model, network.options, read.state, module)
        except BackboneError as error:
            raise CheckpointError(
                f"{stage} would keep random weights, because {error} than a ResNet of "
                f"Detectron2's. Set MODEL.RESNETS.STRIDE_IN_1X1 to False, from which that stage is "
                f"built; if that does not help, use a feature pyramid (MODEL.BACKBONE.NAME "
                f"'build_dr_timm_fpn_backbone'), or say that it is meant to be new: "
                f"?new_keys={stage}.*"
            ) from error
    return parts


def local_location(address: str) -> CheckpointLocation:
    """The checkpoint that an address names, with a path that this machine can open."""
    location = CheckpointLocation.parse(address)
    if "://" in location.path:
        return replace(location, path=PathManager.get_local_path(location.path))
    return location


def find_backbones(model: nn.Module, address: str) -> dict[str, nn.Module]:
    """The modules that a checkpoint is loaded into, by name.

    Raises:
        CheckpointError: There are none.
    """
    kinds = (TimmBackbone, ReinforcedClassifier, ResNet)
    found = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    if not found:
        kind = type(getattr(model, "backbone", model)).__name__
        raise CheckpointError(
            f"{address} has no place in {type(model).__name__}: its backbone is a {kind}. Set "
            f"MODEL.BACKBONE.NAME to 'build_dr_timm_fpn_backbone' (lazy: d2_ext.TimmBackbone), or "
            f"to Detectron2's 'build_resnet_fpn_backbone'"
        )
    return found


def read_weights(backbone: nn.Module, location: CheckpointLocation) -> BackboneWeights:
    """Read a checkpoint for a backbone that `find_backbones` found.

    Raises:
        CheckpointError: See `load_backbone`.
    """
    if isinstance(backbone, ResNet):
        return load_backbone(location, to="detectron2")
    network: Any = backbone.network if isinstance(backbone, TimmBackbone) else backbone
    arch = network.model if isinstance(backbone, TimmBackbone) else network.name
    return load_backbone(location, to="timm", arch=arch, options=network.options)


def _check_loaded(checkpointer: DetectionCheckpointer, path: str) -> None:
    """After Detectron2's own loading, which says nothing about a backbone without weights."""
    backbones = {
        name: module.network
        for name, module in checkpointer.model.named_modules()
        if isinstance(module, TimmBackbone)
    }
    empty = [name for name, network in backbones.items() if not network.is_loaded]
    # Subclasses may load one of several models, such as a student whose teacher follows it.
    if len(empty) < len(backbones) and type(checkpointer) is not DetectionCheckpointer:
        for name in empty:
            logger.warning("%s does not hold the weights of %s, which keeps its own", path, name)
    elif empty:
        raise CheckpointError(
            f"{path} does not hold all weights of {empty[0] or 'the model'} "
            f"({backbones[empty[0]].model}): it would train from scratch. If the file is a "
            f"checkpoint of a classifier, write {SCHEME}{path}; if the backbone was filled "
            f"otherwise, call d2_ext.mark_loaded(model) first"
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
