"""Making timm's names mean ours, wherever they are bound."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from timm_ext import datasets, loader, loss, refusals

__all__ = ["register"]

_REPLACEMENTS: dict[int, Any] = {
    id(datasets.timm_create_dataset): datasets.create_dataset,
    id(loader.timm_create_loader): loader.create_loader,
    id(refusals.timm_create_naflex_loader): refusals.create_naflex_loader,
}


def register(*modules: ModuleType) -> None:
    """Let timm, and every module that took names from it, use this package's factories.

    timm's factory functions are bound anew in the modules that define them, so that later imports
    get ours, and in every loaded module that holds them, under whatever name. timm's classes are
    changed in place. Both do what timm's do for every dataset that is not reinforced. Importing
    `timm_ext` calls this; calling it again changes nothing more.

    A function that something other than a module holds cannot be found: a `functools.partial`, a
    class attribute or a default argument that was made before. Import `timm_ext` before such code.

    Args:
        *modules: Modules that are not in `sys.modules`.

    Example:
        >>> import timm.data
        >>> register()
        >>> timm.data.create_dataset is datasets.create_dataset
        True
    """
    refusals.change_classes()
    loss.change_classes()
    for module in (*sys.modules.values(), *modules):
        names = _names_in(module)
        if str(names.get("__name__")).startswith(f"{__package__}."):
            continue  # these need timm's own
        for name, value in list(names.items()):
            if id(value) in _REPLACEMENTS:
                names[name] = _REPLACEMENTS[id(value)]


def _names_in(module: object) -> dict[str, Any]:
    # Around the module's own attribute access, which may raise, or import what is lazy.
    try:
        names = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {}
    return names if type(names) is dict else {}
