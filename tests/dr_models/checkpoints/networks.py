"""Random networks, and checkpoints in CVNets layout, without the reference numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dr_models.checkpoints import CVNETS_MODELS
from dr_models.families.swin.position_index import window_index


def randomised(network: nn.Module) -> nn.Module:
    """Give normalisation the statistics and scales that a wrong pairing would show."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


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
