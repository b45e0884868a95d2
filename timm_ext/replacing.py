"""Replacing functions in every module that holds them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


def replace_everywhere(
    replacements: Mapping[Callable[..., Any], Callable[..., Any]], *modules: ModuleType
) -> None:
    """Replace functions in all loaded modules but this package's, which need the originals.

    Args:
        replacements: By the function that is replaced.
        *modules: More modules, which are not in `sys.modules`.
    """
    by_id = {id(original): replacement for original, replacement in replacements.items()}
    for module in (*sys.modules.values(), *modules):
        names = _names_in(module)
        if str(names.get("__name__")).startswith(f"{__package__}."):
            continue
        for name, value in list(names.items()):
            if id(value) in by_id:
                names[name] = by_id[id(value)]


def _names_in(module: object) -> dict[str, Any]:
    # Bypasses the module's __getattribute__ and __getattr__, which may raise or import lazily.
    try:
        names = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {}
    return names if type(names) is dict else {}
