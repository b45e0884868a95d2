"""The hosts' own networks: what names and shapes they have."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from dr_plugins.errors import CheckpointError

__all__ = [
    "check_shapes",
    "cvnets_torchvision_shapes",
    "timm_defaults",
    "timm_shapes",
    "torchvision_defaults",
    "torchvision_shapes",
]

Shapes = Mapping[str, torch.Size]


def _timm() -> Any:
    """Timm with `dr_models`' networks, or None where it is not installed."""
    try:
        return importlib.import_module("dr_models") and importlib.import_module("timm")
    except ImportError:
        return None


def timm_shapes(name: str, num_classes: int, **kwargs: Any) -> Shapes | None:
    """Names and shapes of a timm model's state dict; None where timm is not installed.

    Raises:
        CheckpointError: timm has no such model.
    """
    timm = _timm()
    if timm is None:
        return None
    if not timm.is_model(name):
        raise CheckpointError(f"timm {timm.__version__} has no model {name!r}")
    with torch.device("meta"):
        return _shapes(timm.create_model(name, num_classes=num_classes, **kwargs))


def timm_defaults(name: str) -> dict[str, Any]:
    """What timm feeds a model by default; empty where timm is not installed."""
    timm = _timm()
    if timm is None or not timm.is_model(name):
        return {}
    config: dict[str, Any] = timm.get_pretrained_cfg(name).to_dict()
    return config


def torchvision_shapes(name: str, num_classes: int) -> Shapes:
    """Names and shapes of a torchvision classification model's state dict.

    Raises:
        CheckpointError: torchvision has no such model.
    """
    import torchvision

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise CheckpointError(
            f"torchvision {torchvision.__version__} has no classification model {name!r}"
        )
    # A model without classes does not exist there; the caller has no keys of a classifier then.
    build = partial(
        torchvision.models.get_model, name, weights=None, num_classes=num_classes or 1000
    )
    try:
        with torch.device("meta"):
            return _shapes(build())
    except NotImplementedError:  # RegNet computes its widths with tensors
        return _shapes(build())


def cvnets_torchvision_shapes(arch: str, num_classes: int) -> Shapes:
    """Names and shapes of a CVNets model in torchvision; see `torchvision_model`."""
    from dr_plugins.checkpoints.torchvision_models import torchvision_model

    with torch.device("meta"):
        return _shapes(torchvision_model(arch, num_classes or 1000))


def torchvision_defaults(name: str) -> dict[str, Any]:
    """What torchvision feeds a model's newest weights, under timm's names."""
    import torchvision

    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    size, resize = preset.crop_size[0], preset.resize_size[0]
    return {
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
        "input_size": (3, size, size),
        "interpolation": preset.interpolation.value,
        "crop_pct": size / resize,
    }


def _shapes(model: nn.Module) -> Shapes:
    return {key: value.shape for key, value in model.state_dict().items()}


def check_shapes(state: Mapping[str, torch.Tensor], expected: Shapes, host: str) -> None:
    """Compare a converted state dict with the host's network, apart from missing keys.

    Raises:
        CheckpointError: A tensor that the network has not, or has in another shape.
    """
    for key, value in state.items():
        if key not in expected:
            raise CheckpointError(f"{host} has no tensor {key}: this is another architecture")
        if value.shape != expected[key]:
            raise CheckpointError(
                f"{key} has shape {list(value.shape)}, but {host} expects "
                f"{list(expected[key])}: this is another architecture or size"
            )
