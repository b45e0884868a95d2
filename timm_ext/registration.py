"""Replaces timm's factory functions by this package's, in every module that holds them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from timm_ext import datasets, loader, loss, position, refusals

_REPLACEMENTS: dict[int, Any] = {
    id(datasets.timm_create_dataset): datasets.create_dataset,
    id(loader.timm_create_loader): loader.create_loader,
    id(refusals.timm_create_naflex_loader): refusals.create_naflex_loader,
    id(position.timm_resume_checkpoint): position.resume_checkpoint,
    id(position.timm_resume_task): position.resume_task,
}


def register(*modules: ModuleType) -> None:
    """Make timm, and all modules that import from it, use this package's factories.

    timm's factory functions are replaced in the modules that define them, for later imports, and in
    every loaded module that holds them, under any name. timm's classes are changed in place. For
    datasets that are not reinforced, both do what timm's do. Importing `timm_ext` calls this;
    further calls change nothing.

    References outside of module namespaces are not found: a `functools.partial`, a class attribute
    or a default argument. Through them, the name of a reinforced dataset is an error; import
    `timm_ext` before code that creates them.

    Args:
        *modules: More modules, which are not in `sys.modules`.

    Example:
        >>> import timm.data
        >>> register()
        >>> timm.data.create_dataset is datasets.create_dataset
        True
    """
    refusals.change_classes()
    loss.change_classes()
    position.change_classes()
    for module in (*sys.modules.values(), *modules):
        names = _names_in(module)
        if str(names.get("__name__")).startswith(f"{__package__}."):
            continue  # these need timm's originals
        for name, value in list(names.items()):
            if id(value) in _REPLACEMENTS:
                names[name] = _REPLACEMENTS[id(value)]


def _names_in(module: object) -> dict[str, Any]:
    # Bypasses the module's __getattribute__ and __getattr__, which may raise or import lazily.
    try:
        names = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {}
    return names if type(names) is dict else {}
