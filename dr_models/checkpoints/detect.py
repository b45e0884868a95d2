"""Telling layouts and architectures apart by their keys."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dr_models.checkpoints import hosts
from dr_models.checkpoints.cvnets.catalog import CVNETS_MODELS, CVNetsModel
from dr_models.checkpoints.keys import is_counter
from dr_models.checkpoints.resnets import SHARED

__all__ = ["candidates", "find_resnet", "is_cvnets", "is_plain_resnet"]

_FIRST = ("conv_1.", "patch_emb.0.block.")


def is_cvnets(state: Mapping[str, object]) -> bool:
    """Whether keys are named as CVNets names them; prefixes of wrappers must be gone."""
    return any(key.startswith(_FIRST) for key in state)


def is_plain_resnet(state: Mapping[str, object]) -> bool:
    """Whether keys are those that timm's and torchvision's ResNets share."""
    return {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"} <= state.keys()


def candidates(state: Mapping[str, torch.Tensor]) -> list[str]:
    """The published CVNets models whose keys and widths a state dict has.

    Two, where they differ in the image size only.
    """
    return [name for name, model in CVNETS_MODELS.items() if _fits(model, state)]


def _fits(model: CVNetsModel, state: Mapping[str, torch.Tensor]) -> bool:
    key, axis, size = model.width
    width = state.get(key)
    if width is None or width.ndim <= axis or width.shape[axis] != size:
        return False
    return {entry.source for entry in model.entries()} <= state.keys()


def find_resnet(state: Mapping[str, torch.Tensor]) -> str | None:
    """The ResNet, common to timm and torchvision, whose names and shapes a state dict has.

    The classifier may have any number of classes, or be missing. None for all else, damaged and
    incomplete ones too.
    """
    if not is_plain_resnet(state):
        return None
    found = _body(state)
    for name in sorted(SHARED):
        if _body(hosts.torchvision_shapes(name, 1)) == found:
            return name
    return None


def _body(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {
        key: value.shape
        for key, value in state.items()
        if not key.startswith("fc.") and not is_counter(key)
    }
