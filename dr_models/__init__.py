"""Networks and checkpoints for all hosts.

- `dr_models.checkpoints` loads, converts and checks checkpoints; it needs no framework.
- `dr_models.networks` registers the networks of ml-dr's published checkpoints with timm as
  ``cvnets_*``. They differ from timm's networks of the same name, mostly in ways that a state dict
  does not show. All are registered, even if timm has an equivalent network: the names follow
  one rule, and each ``pretrained_cfg`` states the input of the weights: RGB from 0 to 1, without
  mean and standard deviation.
- `FeatureBackbone` makes any timm network the backbone of a detector.

Example:
    >>> import timm, dr_models.networks
    >>> model = timm.create_model("cvnets_resnet50.dr_in1k_plus")
    >>> model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dr_models.classifiers import create_classifier
    from dr_models.features import FeatureBackbone

__all__ = ["FeatureBackbone", "create_classifier"]

# These need timm and are imported on first use; checkpoints work without timm.
_HOMES = {"FeatureBackbone": "features", "create_classifier": "classifiers"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ImportError as error:
        raise ImportError(
            f"dr_models.{name} requires timm, which cannot be imported: {error}. "
            f"Install it with `pip install dr-plugins[timm]`."
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
