"""Detectron2's own ResNets, filled from a checkpoint: every tensor has its place, or it fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.modeling.backbone.resnet import DeformBottleneckBlock, ResNet
from torch import nn

from dr_plugins.checkpoints import BackboneWeights
from dr_plugins.checkpoints.keys import is_counter
from dr_plugins.checkpoints.report import shorten
from dr_plugins.errors import CheckpointError

__all__ = ["load_resnet"]

State = Mapping[str, torch.Tensor]
_HEAD = "roi_heads.res5"  # where the last stage is in Detectron2's C4 models, beside the backbone


def load_resnet(model: nn.Module, name: str, weights: BackboneWeights, address: str) -> None:
    """Load weights in Detectron2's layout into one of its ResNets.

    Stages that the backbone leaves out have no place; in models of the kind "C4" the fifth goes
    into the heads, where it is.

    Args:
        model: The whole model.
        name: Of the ResNet in it; empty if it is the model.
        weights: From `load_backbone`, converted for Detectron2.
        address: Of the checkpoint, for messages.

    Raises:
        CheckpointError: A tensor of the network or of the checkpoint is left over, or one has
            another shape; or the network strides elsewhere.
    """
    network = model.get_submodule(name)
    assert isinstance(network, ResNet)
    _check_strides(network, name, weights, address)
    parts = {name: _without_stages(weights.state, network)}
    beside = ".".join([*name.split(".")[:-1], _HEAD])
    head = dict(model.named_modules()).get(beside)
    if head is not None and "res5" not in network.stage_names:
        parts[beside] = {
            key.removeprefix("res5."): value
            for key, value in weights.state.items()
            if key.startswith("res5.")
        }
    for part, state in parts.items():
        _check_keys(model.get_submodule(part), part, state, weights, address)
    for part, state in parts.items():
        model.get_submodule(part).load_state_dict(state, strict=False)


def _without_stages(state: State, network: ResNet) -> dict[str, torch.Tensor]:
    absent = {f"res{stage}" for stage in range(2, 6)} - set(network.stage_names)
    return {key: value for key, value in state.items() if key.partition(".")[0] not in absent}


def _check_keys(
    module: nn.Module, name: str, state: State, weights: BackboneWeights, address: str
) -> None:
    own = {
        key: value.shape for key, value in module.state_dict().items() if not _is_new(module, key)
    }
    missing = [key for key in own if key not in state]
    left_over = [key for key in state if key not in own]
    shapes = [key for key in own if key in state and state[key].shape != own[key]]
    faults = [
        f"{text} {shorten(keys)}"
        for text, keys in (
            ("it has no", missing),
            ("the backbone has no", left_over),
            ("other shapes have", shapes),
        )
        if keys
    ]
    if faults:
        settings = ", ".join(f"{key} {value}" for key, value in weights.report.model_kwargs.items())
        raise CheckpointError(
            f"{address} holds {weights.report.arch}, which does not fit {name or 'the backbone'}: "
            f"{'; '.join(faults)}. Configure the backbone that it is for (yacs: {settings}; lazy: "
            f"the same of model.backbone.bottom_up), or use another checkpoint"
        )


def _is_new(module: nn.Module, key: str) -> bool:
    """Tensors that no checkpoint of a classifier has: counters, and offsets that start from 0."""
    if is_counter(key):
        return True
    parent, _, leaf = key.rpartition(".conv2_offset.")
    return bool(leaf) and isinstance(module.get_submodule(parent), DeformBottleneckBlock)


def _check_strides(network: ResNet, name: str, weights: BackboneWeights, address: str) -> None:
    for block_name, block in network.named_modules():
        conv1: Any = getattr(block, "conv1", None)
        if hasattr(block, "conv3") and tuple(conv1.stride) != (1, 1):
            raise CheckpointError(
                f"{name or 'the backbone'} strides in the 1×1 convolution of {block_name}, but "
                f"{weights.report.arch} of {address} was trained with strides in the 3×3: all "
                f"tensors fit, and the features are wrong. Set MODEL.RESNETS.STRIDE_IN_1X1 to "
                f"False (lazy: model.backbone.bottom_up.stages.stride_in_1x1)"
            )
