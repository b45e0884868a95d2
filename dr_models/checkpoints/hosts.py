"""Names and shapes of the hosts' own networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from dr_plugins.errors import CheckpointError

Shapes = Mapping[str, torch.Tensor]
"""Tensors without memory: names, shapes, types."""


def _timm() -> Any:
    """Return timm with `dr_models`' networks, or None if it is not installed."""
    try:
        import timm

        import dr_models.networks  # noqa: F401  registers them
    except ImportError:
        return None
    return timm


def timm_shapes(name: str, num_classes: int, **kwargs: Any) -> Shapes | None:
    """Return names and shapes of a timm model's state dict; None if timm is not installed.

    Raises:
        CheckpointError: timm has no such model.
    """
    timm = _timm()
    if timm is None:
        return None
    if not timm.is_model(name):
        raise CheckpointError(f"timm {timm.__version__} has no model {name!r}")
    build = partial(timm.create_model, name, num_classes=num_classes, **kwargs)
    try:
        return _shapes_of(build)
    except RuntimeError as error:
        raise CheckpointError(f"timm {timm.__version__} cannot build {name!r}: {error}") from error


def known_name(name: str) -> str:
    """Return timm's or torchvision's spelling of a network's name; empty if neither has it.

    Without timm, every name is accepted.

    Example:
        >>> known_name("gluon_resnet50_v1b"), known_name("resnet50"), known_name("mine")
        ('resnet50.gluon_in1k', 'resnet50', '')
    """
    import torchvision

    timm = _timm()
    if name in torchvision.models.list_models(module=torchvision.models) or timm is None:
        return name
    renamed = getattr(timm.models._registry, "_deprecated_models", {}).get(name)
    name = renamed if isinstance(renamed, str) else name
    if not timm.is_model(name):
        return ""
    return name if _timm_config(name) else name.partition(".")[0]


def _timm_config(name: str) -> Any:
    """Return timm's configuration of a model; None for an unknown tag."""
    try:
        return _timm().get_pretrained_cfg(name)
    except RuntimeError:
        return None


def timm_defaults(name: str) -> dict[str, Any]:
    """Return timm's default input of a model; empty if timm is not installed."""
    timm = _timm()
    if timm is None or not timm.is_model(name):
        return {}
    config = _timm_config(name)
    return config.to_dict() if config else {}


@lru_cache(maxsize=16)
def torchvision_shapes(name: str, num_classes: int) -> Shapes:
    """Return names and shapes of a torchvision classification model's state dict.

    Raises:
        CheckpointError: torchvision has no such model.
    """
    import torchvision

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise CheckpointError(
            f"torchvision {torchvision.__version__} has no classification model {name!r}"
        )
    # torchvision has no models without classes; the caller then has no classifier keys.
    build = partial(
        torchvision.models.get_model, name, weights=None, num_classes=num_classes or 1000
    )
    return _shapes_of(build)


def cvnets_torchvision_shapes(arch: str, num_classes: int) -> Shapes:
    """Return names and shapes of a CVNets model in torchvision; see `torchvision_model`."""
    from dr_models.catalog import torchvision_model

    with torch.device("meta"):
        return _shapes(torchvision_model(arch, num_classes or 1000))


def torchvision_defaults(name: str) -> dict[str, Any]:
    """Return the input of torchvision's newest weights of a model, under timm's names."""
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


def _shapes_of(build: Callable[[], nn.Module]) -> Shapes:
    try:
        with torch.device("meta"):
            return _shapes(build())
    except RuntimeError:  # some compute their widths with tensors, such as torchvision's RegNet
        return _shapes(build())


def _shapes(model: nn.Module) -> Shapes:
    return {key: value.to("meta") for key, value in model.state_dict().items()}


def count_classes(state: Mapping[str, torch.Tensor], classifier: Sequence[str]) -> int:
    """Return the length of a classifier's last tensor; 0 without a classifier.

    Raises:
        CheckpointError: The tensor has no dimension or no element.
    """
    present = [key for key in classifier if key in state]
    if not present:
        return 0
    value = state[present[-1]]
    if not value.ndim or not len(value):
        raise CheckpointError(
            f"{present[-1]} has shape {list(value.shape)}; expected one number per class"
        )
    return len(value)


def check_shapes(state: Mapping[str, torch.Tensor], expected: Shapes, host: str) -> None:
    """Compare a converted state dict with the host's network; ignore missing keys.

    Raises:
        CheckpointError: The network has no such tensor, or one of another shape.
    """
    for key, value in state.items():
        if key not in expected:
            raise CheckpointError(f"{host} has no tensor {key}: the architecture differs")
        if value.shape != expected[key].shape:
            raise CheckpointError(
                f"{key} has shape {list(value.shape)}, but {host} expects "
                f"{list(expected[key].shape)}: the architecture or size differs"
            )
        if expected[key].is_floating_point() and not value.is_floating_point():
            raise CheckpointError(
                f"{key} is of type {value.dtype}, but {host} expects floating-point numbers; "
                f"use the checkpoint before quantization"
            )
