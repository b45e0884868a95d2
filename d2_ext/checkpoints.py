"""ImageNet+ checkpoints in place of Detectron2's: ``imagenet-plus://PATH?source=&arch=``.

`DetectionCheckpointer` only warns when nothing in a file fits the model, and trains from random
weights. ``imagenet-plus://`` addresses are therefore loaded here: the whole backbone, with a check
of the model's input, or an error.
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
from d2_ext.log import logger
from d2_ext.resnets import resnet_parts
from dr_models.checkpoints import BackboneWeights, CheckpointLocation, load_backbone
from dr_models.checkpoints.location import SCHEME
from dr_plugins.errors import BackboneError, CheckpointError

_MARK = "_loads_imagenet_plus"


class ImageNetPlusHandler(PathHandler):
    """Resolves ``imagenet-plus://`` addresses to local files in Detectron2's layout.

    This is for programs that read files through `PathManager`. `DetectionCheckpointer` uses
    `load_reinforced`, which also knows the model.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [SCHEME]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        """Convert a plain ResNet to a temporary file that Detectron2 reads as its own.

        Raises:
            CheckpointError: See `load_backbone`.
        """
        return _converted(path)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        if mode != "rb":
            raise CheckpointError(f"{path} can only be read with mode 'rb', not {mode!r}")
        return open(self._get_local_path(path), mode)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return local_location(path).file.is_file()

    _exists = _isfile


def register_checkpoints() -> None:
    """Let `PathManager` and `DetectionCheckpointer` read the addresses; idempotent.

    One method is replaced, `DetectionCheckpointer.load`, because only it has both the model and the
    address, and because Detectron2's main branch strips the options from an address before a
    handler sees it. Other addresses are passed to the original.

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
    """Load a checkpoint into the whole backbone of a model, or raise.

    `DetectionCheckpointer.load` calls this for ``imagenet-plus://`` addresses.

    Args:
        model: Contains a `TimmBackbone` or a ResNet of Detectron2, or is a `ReinforcedClassifier`.
        address: See `CheckpointLocation.parse`; its path may be one that `PathManager` resolves.
        trainer: Its configuration and data loader are checked too, see `check_inputs`.

    Returns:
        The weights read, for each backbone.

    Raises:
        CheckpointError: The model has no such backbone; the checkpoint is of another network; a
            tensor is missing, unexpected, or of another shape; the last stage of a C4 model, in its
            heads, cannot be filled; the model's input format is not the one the network was trained
            with.

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
            "%s: loaded %s into %s, %d tensors",
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
    """A predicate: whether a tensor of the model may be missing in the checkpoint."""
    own = model.state_dict()
    for pattern in location.new_keys:
        if not fnmatch.filter(own, pattern):
            raise CheckpointError(
                f"{address}: new_keys has {pattern!r}, which matches no tensor of the model; use "
                f"names of its state_dict(), such as {max(own, key=len)}"
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
    """Tensors for a timm backbone, and for its last stage if that is in the heads."""
    backbone = cast(TimmBackbone, model.get_submodule(name))
    network = backbone.network
    parts: dict[str, Mapping[str, torch.Tensor]] = {
        f"{name}.network".lstrip("."): network.adapt(read.state)
    }
    for stage in stages:
        module = model.get_submodule(stage)
        if all(may_be_new(f"{stage}.{key}") for key in module.state_dict()):
            continue
        try:
            parts[stage] = timm_last_stage(network.model, network.options, read.state, module)
        except BackboneError as error:
            raise CheckpointError(
                f"{stage} would keep random weights: {error}. Set MODEL.RESNETS.STRIDE_IN_1X1 to "
                f"False; if that does not help, use a feature pyramid (MODEL.BACKBONE.NAME "
                f"'build_dr_timm_fpn_backbone'), or mark the stage as new: ?new_keys={stage}.*"
            ) from error
    return parts


def local_location(address: str) -> CheckpointLocation:
    """Parse an address, and resolve its path to a local file."""
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
            f"{address} cannot be loaded into {type(model).__name__}: its backbone is a {kind}. "
            f"Set MODEL.BACKBONE.NAME to 'build_dr_timm_fpn_backbone' (lazy: d2_ext.TimmBackbone), "
            f"or to Detectron2's 'build_resnet_fpn_backbone'"
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
    is_whole = isinstance(backbone, ReinforcedClassifier)
    return load_backbone(
        location, to="timm", arch=_arch(backbone), options=network.options, whole=is_whole
    )


def _arch(backbone: Any) -> str:
    name: str = backbone.network.model if isinstance(backbone, TimmBackbone) else backbone.name
    return name


def _check_loaded(checkpointer: DetectionCheckpointer, path: str) -> None:
    """Check after Detectron2's own loading, which does not report a backbone without weights."""
    backbones = {
        name: module
        for name, module in checkpointer.model.named_modules()
        if isinstance(module, TimmBackbone | ReinforcedClassifier)
    }
    empty = [name for name, module in backbones.items() if not _is_loaded(module)]
    # Subclasses may load one of several models, such as a student with an averaged teacher.
    if len(empty) < len(backbones) and type(checkpointer) is not DetectionCheckpointer:
        for name in empty:
            logger.warning("%s has no weights for %s, which keeps its own", path, name)
    elif empty:
        raise CheckpointError(
            f"{path} does not have all weights of {empty[0] or 'the model'} "
            f"({_arch(backbones[empty[0]])}), which would train from scratch. If the file is a "
            f"classifier's checkpoint, write {SCHEME}{path}; if you have copied weights into the "
            f"backbone, call d2_ext.mark_loaded(model) first"
        )


def _is_loaded(backbone: TimmBackbone | ReinforcedClassifier) -> bool:
    network = backbone.network if isinstance(backbone, TimmBackbone) else backbone
    return network.is_loaded


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="imagenet-plus-")  # removed when the process ends


@functools.cache
def _converted(address: str) -> str:
    read = load_backbone(local_location(address), to="detectron2")
    # Not .pkl, which Detectron2 unpickles, and takes for Caffe2's by default. It loads .pth with
    # torch.load, and matches suffixes of names on request.
    path = Path(_folder().name, f"{len(list(Path(_folder().name).iterdir()))}.pth")
    torch.save({"model": read.state, "matching_heuristics": True}, path)
    return str(path)
