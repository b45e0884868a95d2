"""Strict loading into Detectron2's own ResNets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from detectron2.modeling.backbone.resnet import DeformBottleneckBlock, ResNet
from torch import nn

from d2_ext.last_stage import LAST_STAGE
from dr_models.checkpoints import BackboneWeights
from dr_models.checkpoints.resnets import check_layers
from dr_models.cvnets.keys import is_counter
from dr_models.cvnets.report import shorten
from dr_plugins.errors import BackboneError, CheckpointError

State = Mapping[str, torch.Tensor]


def resnet_parts(
    model: nn.Module,
    name: str,
    stages: Sequence[str],
    weights: BackboneWeights,
    address: str,
    may_be_new: Callable[[str], bool],
) -> dict[str, State]:
    """Tensors for one of Detectron2's ResNets, and for its last stage if that is in the heads.

    Args:
        model: The whole model.
        name: Name of the ResNet in it; empty if it is the model.
        stages: Names of the last stages in heads, from `find_last_stages`.
        weights: From `load_backbone`, converted for Detectron2.
        address: The checkpoint's address, for messages.
        may_be_new: Whether a tensor of the model may be missing in the checkpoint.

    Returns:
        Tensors by module name in the model.

    Raises:
        CheckpointError: A tensor is missing, unexpected or of another shape; or the network has
            strides in another place, or another eps of batch normalisation.
    """
    network = model.get_submodule(name)
    assert isinstance(network, ResNet)
    parts: dict[str, State] = {name: _without_stages(weights.state, network)}
    blocks = {stage: getattr(network, stage) for stage in network.stage_names}
    for stage in stages:
        parts[stage] = _of_last_stage(weights.state)
        blocks[stage] = model.get_submodule(stage)
    for stage, module in blocks.items():
        _check_strides(module, stage, weights, address)
    for part, state in parts.items():
        module = model.get_submodule(part)
        _check_keys(module, part, state, weights, address, may_be_new)
        try:
            check_layers(module, state)
        except BackboneError as error:
            raise CheckpointError(
                f"{address} does not fit {part or 'the model'}: {error}"
            ) from error
    return parts


def _without_stages(state: State, network: ResNet) -> dict[str, torch.Tensor]:
    absent = {f"res{stage}" for stage in range(2, 6)} - set(network.stage_names)
    return {key: value for key, value in state.items() if key.partition(".")[0] not in absent}


def _of_last_stage(state: State) -> dict[str, torch.Tensor]:
    prefix = f"{LAST_STAGE}."
    return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}


def _check_keys(
    module: nn.Module,
    name: str,
    state: State,
    weights: BackboneWeights,
    address: str,
    may_be_new: Callable[[str], bool],
) -> None:
    own = {
        key: value.shape for key, value in module.state_dict().items() if not _is_new(module, key)
    }
    prefix = f"{name}." if name else ""
    missing = [key for key in own if key not in state and not may_be_new(prefix + key)]
    left_over = [key for key in state if key not in own]
    shapes = [key for key in own if key in state and state[key].shape != own[key]]
    faults = [
        f"{text} {shorten(keys)}"
        for text, keys in (
            ("missing in the checkpoint:", missing),
            ("missing in the backbone:", left_over),
            ("of another shape:", shapes),
        )
        if keys
    ]
    if faults:
        settings = ", ".join(f"{key} {value}" for key, value in weights.report.model_kwargs.items())
        raise CheckpointError(
            f"{address} holds {weights.report.arch}, which does not fit {name or 'the backbone'}: "
            f"{'; '.join(faults)}. Configure the checkpoint's backbone (yacs: {settings}; lazy: "
            f"the same of model.backbone.bottom_up), use another checkpoint, or list tensors that "
            f"are meant to be new (?new_keys=NAME,... with wildcards)"
        )


def _is_new(module: nn.Module, key: str) -> bool:
    """Whether no classifier's checkpoint has a tensor: counters, and offsets that start at 0."""
    if is_counter(key):
        return True
    parent, _, leaf = key.rpartition(".conv2_offset.")
    return bool(leaf) and isinstance(module.get_submodule(parent), DeformBottleneckBlock)


def _check_strides(stage: nn.Module, name: str, weights: BackboneWeights, address: str) -> None:
    for block in stage.children():
        conv1: Any = getattr(block, "conv1", None)
        if hasattr(block, "conv3") and tuple(conv1.stride) != (1, 1):
            raise CheckpointError(
                f"{name} strides in the 1×1 convolution of its first block, but "
                f"{weights.report.arch} of {address} was trained with strides in the 3×3: all "
                f"tensors fit, but features would be wrong. Set MODEL.RESNETS.STRIDE_IN_1X1 to "
                f"False (lazy: model.backbone.bottom_up.stages.stride_in_1x1)"
            )
