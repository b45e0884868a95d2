"""Replaces timm's factory functions by this package's, in every module that holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import timm

from timm_ext import datasets, loader, loss, position, refusals
from timm_ext.replacing import replace_everywhere

_REPLACEMENTS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    datasets.timm_create_dataset: datasets.create_dataset,
    loader.timm_create_loader: loader.create_loader,
    refusals.timm_create_naflex_loader: refusals.create_naflex_loader,
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
    if hasattr(timm, "create_model"):  # else timm is still being imported
        position.change_functions()
    replace_everywhere(_REPLACEMENTS, *modules)
