"""timm's networks by name, with errors that help."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from torch import nn

import dr_models.networks  # noqa: F401  registers them with timm
from dr_plugins.errors import BackboneError

__all__ = ["check_name", "classifier_names", "create_classifier"]


def create_classifier(model: str, num_classes: int, **options: Any) -> nn.Module:
    """Create a classifier with random weights.

    Args:
        model: A model of timm, or one of `dr_models` (``cvnets_resnet50``).
        num_classes: Of its answers.
        **options: For `timm.create_model`, such as ``drop_path_rate``.

    Raises:
        BackboneError: There is no such model, or it does not take these options.

    Example:
        >>> create_classifier("resnet18", 3).num_classes
        3
    """
    check_name(model)
    try:
        network: nn.Module = timm.create_model(model, num_classes=num_classes, **options)
    except TypeError as error:
        raise BackboneError(
            f"timm cannot create {model} with {options}: {error}. Leave out what it does not take"
        ) from error
    _check_feed(model, network)
    return network


def _check_feed(model: str, network: Any) -> None:
    """A checkpoint records the architecture, and not which of its variants was fed what."""
    plain = timm.get_pretrained_cfg(model.partition(".")[0])
    for name in ("mean", "std"):
        own = tuple(network.pretrained_cfg[name])
        if plain is not None and tuple(getattr(plain, name)) != own:
            raise BackboneError(
                f"{model} is fed images with {name} {own}, and {plain.architecture} with "
                f"{getattr(plain, name)}; name it without what follows the dot"
            )


def check_name(model: str) -> None:
    """Make sure that timm has a model.

    Raises:
        BackboneError: It has not; the message names similar ones.
    """
    if timm.is_model(model):
        return
    close = difflib.get_close_matches(model, timm.list_models(), 3)
    raise BackboneError(
        f"timm {timm.__version__} has no model {model!r}"
        + (f"; did you mean {' or '.join(close)}?" if close else "; see timm.list_models()")
    )


def classifier_names(network: Any) -> tuple[str, ...]:
    """Names of the modules that depend on the number of classes.

    Example:
        >>> classifier_names(create_classifier("resnet18", 3))
        ('fc',)
    """
    names = network.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)
