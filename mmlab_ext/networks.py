"""timm's networks by name; timm itself is loaded when the first one is asked for."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

from mmlab_ext.errors import ConfigError

__all__ = ["classifier_names", "create_network", "import_timm"]


def import_timm() -> Any:
    """Return timm, with the networks of `dr_models`.

    Raises:
        ImportError: It is not installed.
    """
    import timm

    import dr_models  # noqa: F401  registers its networks

    return timm


def create_network(model: str, num_classes: int, **kwargs: Any) -> nn.Module:
    """Create a classifier of timm with random weights.

    Raises:
        ConfigError: timm has no such model, or it does not take these arguments.
    """
    timm = import_timm()
    if not timm.is_model(model):
        close = difflib.get_close_matches(model, timm.list_models(), 3)
        raise ConfigError(
            f"model.model is {model!r}, which timm {timm.__version__} does not have"
            + (f"; did you mean {' or '.join(close)}?" if close else "; see timm.list_models()")
        )
    try:
        network: nn.Module = timm.create_model(model, num_classes=num_classes, **kwargs)
    except TypeError as error:
        raise ConfigError(
            f"model: timm cannot create {model} with {kwargs}: {error}. Leave out what it does not "
            f"take"
        ) from error
    return network


def classifier_names(network: Any) -> tuple[str, ...]:
    """Names of the modules of a timm network that depend on the number of classes."""
    names = network.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)
