"""Making timm's names mean ours, where a training script looks for them or has bound them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import timm.data
import timm.loss

from timm_ext import datasets, loader, loss, refusals

__all__ = ["register"]

_FACTORIES: tuple[tuple[Any, Any], ...] = (
    (datasets.timm_create_dataset, datasets.create_dataset),
    (loader.timm_create_loader, loader.create_loader),
    (refusals.timm_create_naflex_loader, refusals.create_naflex_loader),
)
_CLASSES: tuple[type, ...] = (
    refusals.AugMixDataset,
    refusals.BinaryCrossEntropy,
    refusals.FastCollateMixup,
    refusals.Mixup,
    loss.LabelSmoothingCrossEntropy,
)
_REPLACEMENTS = {
    id(original): replacement
    for original, replacement in (*_FACTORIES, *((kind.__base__, kind) for kind in _CLASSES))
}


def register(*modules: ModuleType) -> None:
    """Let `timm.data`, `timm.loss`, the running script and `modules` use this package's factories.

    Only names that are bound to timm's own objects are bound anew, and the new ones do what timm's
    do for every dataset that is not reinforced. Importing `timm_ext` calls this; calling it again
    changes nothing more.

    Args:
        *modules: Other modules that took names from timm before, such as a ``train.py`` that was
            imported.
    """
    # The losses' factory, which timm's tasks use, has bound the classes before `timm.loss` did.
    places = (timm.data, timm.loss, sys.modules.get("timm.loss._loss_factory"))
    for module in (*places, sys.modules.get("__main__"), *modules):
        for name, value in list(vars(module).items()) if module else ():
            if id(value) in _REPLACEMENTS:
                setattr(module, name, _REPLACEMENTS[id(value)])
