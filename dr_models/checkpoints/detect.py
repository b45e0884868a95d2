"""Detect layouts and architectures from keys."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dr_models.checkpoints import hosts
from dr_models.checkpoints.resnets import SHARED
from dr_models.cvnets.keys import is_counter

__all__ = ["find_resnet", "is_plain_resnet"]


def is_plain_resnet(state: Mapping[str, object]) -> bool:
    """Return whether the keys are those of timm's and torchvision's ResNets."""
    return {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"} <= state.keys()


def find_resnet(state: Mapping[str, torch.Tensor]) -> str | None:
    """Return the ResNet of timm and torchvision that has these names and shapes.

    The classifier may have any number of classes or be missing. None if no ResNet matches, also for
    damaged and incomplete checkpoints.
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
