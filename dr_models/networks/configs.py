"""timm's ``pretrained_cfg`` of the published models, from the catalog."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.models import generate_default_cfgs

from dr_models.cvnets.catalog import CVNETS_MODELS, canonical_name
from dr_models.cvnets.inputs import cvnets_convention
from dr_models.cvnets.renaming import TAG, is_cvnets, to_timm


def default_configs(family: str, **fields: Any) -> Mapping[str, Any]:
    """Return timm's ``default_cfgs`` for one family of the catalog.

    Args:
        family: See `dr_models.cvnets.catalog.CVNetsModel`.
        **fields: Further fields, such as ``first_conv`` and ``classifier``.
    """
    configs: dict[str, Any] = {}
    for model in CVNETS_MODELS.values():
        if model.family == family:
            inputs = cvnets_convention(model)
            configs[f"{model.timm}.{TAG}"] = {
                "url": "",
                "input_size": (3, *inputs.input_size),
                "mean": inputs.mean,
                "std": inputs.std,
                "interpolation": inputs.interpolation,
                "crop_pct": inputs.crop_pct,
                "origin_url": "https://github.com/apple/ml-dr",
                "paper_ids": "arXiv:2303.08983",
                **fields,
            }
    cfgs: Mapping[str, Any] = generate_default_cfgs(configs)
    return cfgs


def from_cvnets(state: dict[str, Any], model: Any) -> dict[str, torch.Tensor]:
    """Convert a state dict in CVNets layout; a `pretrained_filter_fn` for timm.

    With it, ``pretrained_cfg_overlay=dict(file=...)`` accepts files in either layout.
    """
    if not is_cvnets(state):
        return state
    return to_timm(state, CVNETS_MODELS[canonical_name(model.pretrained_cfg["architecture"])])
