"""Telling layouts and architectures apart by their keys."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dr_plugins.checkpoints.cvnets.catalog import CVNETS_MODELS, CVNetsModel

__all__ = ["candidates", "is_cvnets", "is_plain_resnet"]

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
