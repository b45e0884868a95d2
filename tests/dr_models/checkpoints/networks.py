"""Random checkpoints in CVNets layout, without the reference numbers."""

from __future__ import annotations

import pytest
import torch

from dr_models.checkpoints import CVNETS_MODELS
from dr_models.families.swin.position_index import window_index


def cvnets_state(name: str) -> dict[str, torch.Tensor]:
    """Random weights of a model whose tensors keep their shapes in timm."""
    timm = pytest.importorskip("timm")
    pytest.importorskip("dr_models.networks")  # registers them with timm
    torch.manual_seed(0)
    model = CVNETS_MODELS[name]
    values = timm.create_model(model.timm).state_dict()
    state = {}
    for entry in model.entries():
        if entry.target is None:
            state[entry.source] = window_index()
        else:
            value = values[entry.target]
            state[entry.source] = (
                value.view(1, *value.shape) if "pos_embed" in entry.target else value
            )
    return state
