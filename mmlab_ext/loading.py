"""Loads whole checkpoints into modules of a model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import nn

from dr_models.checkpoints import (
    BackboneWeights,
    CheckpointLocation,
    InputConvention,
    load_backbone,
    read_metadata,
)
from dr_models.checkpoints.resnets import check_layers
from dr_models.cvnets.keys import is_counter
from dr_plugins.errors import BackboneError, CheckpointError, ReinforcementError
from mmlab_ext.classifier import TimmClassifier
from mmlab_ext.features import TimmFeatures
from mmlab_ext.resnets import check_style, is_shared_head, native_arch

State = Mapping[str, torch.Tensor]

# Options of timm's ResNets that do not change what a stage computes.
_FREE = {"drop_path_rate", "output_stride"}


class Loaded(NamedTuple):
    """What was loaded into a module.

    Attributes:
        weights: The checkpoint's tensors, under the host's names.
        keys: Tensors of the module that were loaded and compared.
        new: Tensors of the module that are not in the checkpoint, as `new_keys` allows.
    """

    weights: BackboneWeights
    keys: list[str]
    new: list[str]

    @property
    def convention(self) -> InputConvention:
        """Format of the images that the network was trained on."""
        return self.weights.convention

    def describe(self, checkpoint: str) -> str:
        """One line for the log: what was loaded, from which layout, and what it expects."""
        report, (mean, std) = self.weights.report, self.convention.for_range(255)
        left = len(self.weights.state) + len(report.dropped) - len(self.keys)
        unused = f", {left} of the checkpoint's have no place here" if left else ""
        new = f", {len(self.new)} new ones keep their values" if self.new else ""
        return (
            f"{report.arch} from {checkpoint} ({report.layout} layout): {len(self.keys)} tensors "
            f"loaded and compared{unused}{new}; it expects RGB with mean={_round(mean)} and "
            f"std={_round(std)}"
        )


def _round(values: tuple[float, ...]) -> list[float]:
    return [round(value, 3) for value in values]


def load_into(
    module: nn.Module,
    location: CheckpointLocation | str,
    *,
    head: bool = False,
    new_keys: Sequence[str] = (),
) -> Loaded:
    """Load a checkpoint into a backbone or a classifier, and compare the values.

    Args:
        module: `TimmFeatures`, `TimmClassifier`, a ResNet of MMDetection or MMSegmentation, or
            MMDetection's `ResLayer`.
        location: The checkpoint.
        head: Also load the last layer of a classifier.
        new_keys: Names of tensors of the module, with wildcards (``*.conv_offset.*``), that may
            be missing in the checkpoint and keep their values.

    Returns:
        What was loaded.

    Raises:
        CheckpointError: The checkpoint does not fit.
        BackboneError: An unsupported module, or one that computes something else.

    Example:
        >>> loaded = load_into(model.backbone, "imagenet-plus://best.pt")   # doctest: +SKIP
        >>> loaded.convention, len(loaded.keys)                             # doctest: +SKIP
    """
    return load_parts({"": module}, location, head=head, new_keys=new_keys)[""]


def load_parts(
    parts: Mapping[str, nn.Module],
    location: CheckpointLocation | str,
    *,
    head: bool = False,
    new_keys: Sequence[str] = (),
) -> dict[str, Loaded]:
    """Load a checkpoint into a backbone and its stages elsewhere in the model.

    Args:
        parts: Modules by name in the model: the backbone, or another module that `load_into` takes,
            then any number of MMDetection's `ResLayer`.
        location: See `load_into`.
        head: See `load_into`.
        new_keys: See `load_into`; here, names in the model.

    Raises:
        CheckpointError: See `load_into`.
        BackboneError: See `load_into`.
    """
    if isinstance(location, str):
        location = CheckpointLocation.parse(location)
    new_keys = (*new_keys, *location.new_keys)
    (name, module), *stages = parts.items()
    if isinstance(module, TimmFeatures):
        weights = module.body.load(location)
        first = _confirm(module.body, module.body.adapt(weights.state), weights)
    elif isinstance(module, TimmClassifier):
        first = _load_classifier(module, location, head)
    elif is_shared_head(module):
        first = _load_stage(module, _weights_of_stage(location), _Names(name, new_keys))
    else:
        first = _load_resnet(module, location, _Names(name, new_keys))
    loaded = {name: first}
    for key, stage in stages:
        options = module.body.options if isinstance(module, TimmFeatures) else ()
        try:
            loaded[key] = _load_stage(stage, first.weights, _Names(key, new_keys), options)
        except ReinforcementError as error:
            raise type(error)(f"{key}: {error}") from error
    _check_new_keys(new_keys, [key for each in loaded.values() for key in each.new])
    return loaded


class _Names(NamedTuple):
    """A module's prefix in its model, and the patterns of tensors that may be new."""

    prefix: str
    new_keys: Sequence[str]

    def allow(self, key: str) -> bool:
        name = f"{self.prefix}.{key}" if self.prefix else key
        return any(fnmatchcase(name, pattern) for pattern in self.new_keys)


def _check_new_keys(patterns: Sequence[str], new: Sequence[str]) -> None:
    """Refuse patterns that match nothing, such as misspelled ones."""
    for pattern in patterns:
        if not any(fnmatchcase(key, pattern) for key in new):
            raise CheckpointError(
                f"new_keys has {pattern!r}, which matches no tensor missing in the checkpoint"
                + (f" (missing: {', '.join(new[:3])})" if new else "")
                + "; leave it out, or use names of the model's state_dict()"
            )


def _load_stage(
    module: nn.Module, weights: BackboneWeights, names: _Names, options: Iterable[str] = ()
) -> Loaded:
    """Load the stage that a C4 model of MMDetection has in its RoI head."""
    check_style(module)
    depth = weights.report.model.partition(".")[0].removeprefix("cvnets_").removeprefix("resnet")
    # timm's ResNet variants have the same tensor names as plain ones, but compute something else.
    is_plain = (depth.isdigit() and _FREE.issuperset(options)) or weights.report.to == "mmengine"
    check_layers(module, weights.state)
    return _load(module, weights.state if is_plain else {}, weights, names)


def _load_resnet(module: nn.Module, location: CheckpointLocation, names: _Names) -> Loaded:
    arch = native_arch(module)
    if arch is None:
        raise BackboneError(
            f"{type(module).__module__}.{type(module).__name__} is none of the supported "
            f"backbones: TimmFeatures, and ResNet and ResNetV1d of MMDetection and MMSegmentation. "
            f"Use dict(type='TimmFeatures', model=NAME), where NAME is timm's for the checkpoint"
        )
    weights = load_backbone(location, to="mmengine", arch=arch)
    check_layers(module, weights.state)
    return _load(module, weights.state, weights, names)


def _weights_of_stage(location: CheckpointLocation) -> BackboneWeights:
    """Weights for a stage, which does not show what network it is from."""
    layout = None
    with contextlib.suppress(CheckpointError):
        layout = read_metadata(location.file).get("layout")
    return load_backbone(location, to="mmengine" if layout == "mmengine" else "timm")


def _load_classifier(module: TimmClassifier, location: CheckpointLocation, head: bool) -> Loaded:
    from dr_models.classifiers import classifier_names

    weights = load_backbone(
        location, to="timm", arch=module.arch, options=module.options, whole=head
    )
    last = _Names("", [f"{name}.*" for name in classifier_names(module.model)])
    if not head:
        kept = {key: value for key, value in weights.state.items() if not last.allow(key)}
        return _load(module.model, kept, weights, last)
    for key in filter(last.allow, module.model.state_dict()):
        found = weights.state.get(key)
        if found is None or len(found) != module.num_classes:
            got = "has no classifier" if found is None else f"has {len(found)}"
            raise CheckpointError(
                f"the checkpoint {got}, but model.num_classes is {module.num_classes}; to load all "
                f"but the last layer, use default_hooks=dict(backbone="
                f"dict(type='ReinforcedBackboneHook', ...))"
            )
    return _load(module.model, weights.state, weights, _Names("", ()))


def _load(module: nn.Module, state: State, weights: BackboneWeights, names: _Names) -> Loaded:
    own = module.state_dict()
    kept = {key: value for key, value in state.items() if _has_place(module, key)}
    missing = [key for key in own if key not in kept and not is_counter(key)]
    new = [key for key in missing if names.allow(key)]
    problems = [f"{key} is not in the checkpoint" for key in missing if key not in new]
    problems += [f"{key} is not in the model" for key in kept if key not in own]
    problems += [
        f"{key} has shape {list(value.shape)} in the checkpoint, {list(own[key].shape)} in the "
        f"model"
        for key, value in kept.items()
        if key in own and own[key].shape != value.shape
    ]
    if problems:
        raise CheckpointError(
            f"{len(problems)} tensors do not fit: {'; '.join(problems[:3])}. Configure the "
            f"{type(module).__name__} as the network that was trained; list tensors that are meant "
            f"to be new, such as those of deformable convolutions, in new_keys"
        )
    module.load_state_dict({**{key: own[key] for key in new}, **kept}, strict=True)
    loaded = _confirm(module, kept, weights)
    prefix = f"{names.prefix}." if names.prefix else ""
    return loaded._replace(new=[f"{prefix}{key}" for key in new])


def _has_place(module: nn.Module, key: str) -> bool:
    """Whether a tensor belongs to this module, not to a stage elsewhere in the model."""
    part = key.partition(".")[0]
    return hasattr(module, part) or not (part.startswith("layer") or is_shared_head(module))


def _confirm(module: nn.Module, state: State, weights: BackboneWeights) -> Loaded:
    """Compare every tensor of the module with the checkpoint's."""
    own = module.state_dict()
    keys = [key for key in own if key in state]
    for key in keys:
        if not torch.equal(own[key], state[key].to(own[key])):
            raise CheckpointError(f"{key} was not loaded: the model still holds other values")
    return Loaded(weights, keys, [])
