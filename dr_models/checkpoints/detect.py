"""Telling layouts and architectures apart by their keys."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dr_models.checkpoints import hosts
from dr_models.checkpoints.resnets import SHARED
from dr_models.cvnets.keys import is_counter

__all__ = ["find_resnet", "is_plain_resnet"]


def is_plain_resnet(state: Mapping[str, object]) -> bool:
    """Whether keys are those that timm's and torchvision's ResNets share."""
    return {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"} <= state.keys()


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
