"""A checkpoint into a module of a model: the whole of it, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dr_plugins.checkpoints import BackboneWeights, CheckpointLocation, load_backbone
from dr_plugins.checkpoints.keys import is_counter
from dr_plugins.errors import BackboneError, CheckpointError
from mmlab_ext.classifier import TimmClassifier
from mmlab_ext.features import TimmFeatures

__all__ = ["load_into", "native_arch"]

# Whose modules, apart from names, compute what timm's and torchvision's do.
_HOSTS = ("mmdet", "mmseg")
_NATIVE = {"ResNet": "resnet{}", "ResNetV1d": "resnet{}d"}


def native_arch(module: nn.Module) -> str | None:
    """What timm calls a ResNet of MMDetection or MMSegmentation; None for any other module.

    Raises:
        BackboneError: It is a variant that no checkpoint of another library fits.
    """
    kind: Any = type(module)
    name = _NATIVE.get(kind.__name__)
    if name is None or kind.__module__.partition(".")[0] not in _HOSTS:
        return None
    network: Any = module
    if network.style != "pytorch":
        raise BackboneError(
            f"style is {network.style!r}, which strides in the first convolution of a block; set "
            f"style='pytorch'"
        )
    conv = (network.conv_cfg or {}).get("type", "Conv2d")
    if conv not in ("Conv", "Conv2d"):
        raise BackboneError(
            f"conv_cfg.type is {conv!r}, which computes something else; leave it out"
        )
    if (network.deep_stem, network.avg_down) != ((kind.__name__ == "ResNetV1d"),) * 2:
        raise BackboneError(
            f"deep_stem={network.deep_stem} and avg_down={network.avg_down} make a network that is "
            f"neither ResNet nor ResNetV1d; leave them out"
        )
    return name.format(network.depth)


def load_into(
    module: nn.Module, location: CheckpointLocation | str, *, head: bool = False
) -> BackboneWeights:
    """Load a checkpoint into a backbone or a classifier, and make sure that it is there.

    Args:
        module: `TimmFeatures`, `TimmClassifier`, or a ResNet of MMDetection or MMSegmentation.
        location: The checkpoint.
        head: Of a classifier, load the last layer too.

    Returns:
        What was read.

    Raises:
        CheckpointError: The checkpoint does not fit.
        BackboneError: Another kind of module.
    """
    if isinstance(module, TimmFeatures):
        weights = module.body.load(location)
        return _confirm(module.body, module.body.adapt(weights.state), weights)
    if isinstance(module, TimmClassifier):
        weights = load_backbone(location, to="timm", arch=module.arch, options=module.options)
        return _load(module.model, _of_classifier(module, weights.state, head), weights)
    arch = native_arch(module)
    if arch is None:
        raise BackboneError(
            f"{type(module).__module__}.{type(module).__name__} is none of the backbones that "
            f"checkpoints can be converted to without changing what they compute: TimmFeatures, "
            f"and ResNet and ResNetV1d of MMDetection and MMSegmentation. Use "
            f"dict(type='TimmFeatures', model=NAME), with timm's name of the checkpoint's network"
        )
    weights = load_backbone(location, to="mmengine", arch=arch)
    return _load(module, _of_stages(module, weights.state), weights)


def _of_stages(module: Any, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the last stages, where the backbone was built without them."""
    later = tuple(f"layer{stage}." for stage in range(module.num_stages + 1, 5))
    return {key: value for key, value in state.items() if not (later and key.startswith(later))}


def _of_classifier(
    module: TimmClassifier, state: Mapping[str, torch.Tensor], head: bool
) -> dict[str, torch.Tensor]:
    from dr_models.networks import classifier_names

    prefixes = tuple(f"{name}." for name in classifier_names(module.model))
    kept = {key: value for key, value in state.items() if head or not key.startswith(prefixes)}
    own: dict[str, torch.Tensor] = module.model.state_dict()
    for key, value in own.items():
        if not key.startswith(prefixes):
            continue
        if not head:
            kept[key] = value
        elif key not in kept or kept[key].shape != value.shape:
            found = f"has {len(kept[key])}" if key in kept else "comes without a classifier"
            raise CheckpointError(
                f"the checkpoint {found}, but model.num_classes is {module.num_classes}; to leave "
                f"out the last layer use custom_hooks=[dict(type='ReinforcedBackboneHook', ...)]"
            )
    return kept


def _load(
    module: nn.Module, state: Mapping[str, torch.Tensor], weights: BackboneWeights
) -> BackboneWeights:
    own = module.state_dict()
    problems = [f"{key} is not in the checkpoint" for key in own if key not in state]
    problems = [text for text in problems if not is_counter(text.partition(" ")[0])]
    problems += [f"{key} is not in the model" for key in state if key not in own]
    problems += [
        f"{key} has shape {list(value.shape)} in the checkpoint, {list(own[key].shape)} in the "
        f"model"
        for key, value in state.items()
        if key in own and own[key].shape != value.shape
    ]
    if problems:
        raise CheckpointError(
            f"{len(problems)} tensors do not fit: {'; '.join(problems[:3])}. Configure the "
            f"{type(module).__name__} as the network that was trained"
        )
    module.load_state_dict(state, strict=True)
    return _confirm(module, state, weights)


def _confirm(
    module: nn.Module, state: Mapping[str, torch.Tensor], weights: BackboneWeights
) -> BackboneWeights:
    """Compare every tensor of the module with the checkpoint's."""
    for key, value in module.state_dict().items():
        if key in state and not torch.equal(value, state[key].to(value)):
            raise CheckpointError(f"{key} was not loaded: the model still holds other values")
    return weights
