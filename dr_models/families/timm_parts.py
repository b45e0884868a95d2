"""What the networks of several families need from timm."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from timm.layers import make_divisible
from timm.models import generate_default_cfgs, register_model

from dr_models.cvnets.inputs import cvnets_convention
from dr_models.cvnets.keys import is_counter
from dr_models.cvnets.model import TAG, Family
from dr_models.cvnets.renaming import is_cvnets, to_timm
from dr_models.cvnets.report import shorten
from dr_plugins.errors import CheckpointError


def default_configs(family: Family, **fields: Any) -> Mapping[str, Any]:
    """Return timm's ``default_cfgs`` of a family's models.

    Args:
        family: The family.
        **fields: Further fields, such as ``first_conv`` and ``classifier``.
    """
    configs: dict[str, Any] = {}
    for model in family.models:
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


def register_models(create: Callable[..., Any], arguments: Mapping[str, tuple[Any, ...]]) -> None:
    """Register networks with timm.

    Args:
        create: Makes a network of its name, its arguments, ``pretrained``, and timm's options; its
            module has timm's ``default_cfgs``.
        arguments: By the name of the network.
    """
    module = sys.modules[create.__module__]
    for name, values in arguments.items():
        entrypoint: Any = partial(create, name, *values, pretrained=False)
        entrypoint.__name__, entrypoint.__module__ = name, module.__name__
        register_model(entrypoint)  # which lists it in the module's `__all__`
        setattr(module, name, entrypoint)


def from_cvnets(family: Family, state: dict[str, Any], model: Any) -> dict[str, torch.Tensor]:
    """Convert a state dict in CVNets layout; with a family, a `pretrained_filter_fn` for timm.

    With it, ``pretrained_cfg_overlay=dict(file=...)`` accepts files in either layout.

    Raises:
        CheckpointError: A tensor other than the classifier's is missing.
    """
    name = model.pretrained_cfg["architecture"]
    if is_cvnets(state):
        return to_timm(state, next(one for one in family.models if one.timm == name), family)
    # Without the classifier, timm loads non-strictly and only warns.
    classifier = f"{model.pretrained_cfg['classifier']}."
    missing = [
        key
        for key in model.state_dict()
        if key not in state and not key.startswith(classifier) and not is_counter(key)
    ]
    if missing:
        raise CheckpointError(
            f"the file for {name} has no {shorten(missing)}, but {shorten(list(state))}: these "
            f"would keep random values. Convert it with `dr-plugins convert-checkpoint`, which "
            f"finds the weights in training checkpoints and removes prefixes"
        )
    return state


def squeeze_width(channels: float) -> int:
    """Return a width of squeeze-and-excitation: a multiple of 8, at least 32.

    Example:
        >>> [squeeze_width(channels) for channels in (4, 22, 88)]
        [32, 32, 88]
    """
    return max(32, make_divisible(channels, 8))
