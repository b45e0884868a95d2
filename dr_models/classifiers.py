"""timm's networks by name, with helpful errors."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from torch import nn

import dr_models.networks  # noqa: F401  registers them with timm
from dr_plugins.errors import BackboneError


def create_classifier(model: str, num_classes: int, **options: Any) -> nn.Module:
    """Create a classifier with random weights.

    Args:
        model: A model of timm or of `dr_models` (``cvnets_resnet50``).
        num_classes: Number of classes.
        **options: For `timm.create_model`, such as ``drop_path_rate``.

    Raises:
        BackboneError: The model is unknown, or does not accept these options.

    Example:
        >>> create_classifier("resnet18", 3).num_classes
        3
    """
    check_name(model)
    try:
        network: nn.Module = timm.create_model(model, num_classes=num_classes, **options)
    except TypeError as error:
        raise BackboneError(
            f"timm cannot create {model} with {options}: {error}. Remove unsupported options"
        ) from error
    _check_input(model, network)
    return network


def _check_input(model: str, network: Any) -> None:
    """Raise for a tag with other inputs, because checkpoints record only the architecture."""
    plain = timm.get_pretrained_cfg(model.partition(".")[0])
    if plain is None:  # of the user's own
        return
    for name in ("mean", "std"):
        own = tuple(network.pretrained_cfg[name])
        if tuple(getattr(plain, name)) != own:
            raise BackboneError(
                f"{model} expects images with {name} {own}, but {plain.architecture} with "
                f"{getattr(plain, name)}; use the name without the part after the dot"
            )


def check_name(model: str) -> None:
    """Check that timm has a model.

    Raises:
        BackboneError: The model is unknown; the message lists similar names.
    """
    if timm.is_model(model):
        return
    close = difflib.get_close_matches(model, timm.list_models(), 3)
    raise BackboneError(
        f"timm {timm.__version__} has no model {model!r}"
        + (f"; did you mean {' or '.join(close)}?" if close else "; see timm.list_models()")
    )


def classifier_names(network: Any) -> tuple[str, ...]:
    """Return the names of the modules that depend on the number of classes.

    Example:
        >>> classifier_names(create_classifier("resnet18", 3))
        ('fc',)
    """
    names = network.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)
