"""Building a teacher from a specification, ``SCHEME:REST``.

A scheme is a function from REST to a teacher. Any package can add one as an entry point of the
group ``dr_plugins.teachers``; it is imported on first use::

    [project.entry-points."dr_plugins.teachers"]
    onnx = "my_package.teachers:load_onnx_teacher"
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from torch import nn

from dr_plugins.errors import TeacherError

_GROUP = "dr_plugins.teachers"
_OURS = "dr-plugins"


def scheme_names() -> list[str]:
    """Return the schemes that the installed packages provide."""
    return sorted(_schemes())


def load_teacher(spec: str) -> nn.Module:
    """Build the teacher that a specification names.

    Args:
        spec: ``timm:NAME`` (pretrained), ``timm:NAME@CHECKPOINT`` (a file),
            ``python:MODULE:FUNCTION`` (a function without arguments that returns a teacher), or
            another package's scheme.

    Returns:
        A module from uint8 views ``[B, 3, H, W]`` to logits ``[B, C]``.

    Raises:
        TeacherError: Unknown scheme, or the teacher cannot be built.

    Example:
        >>> load_teacher("timm:resnet50")                                   # doctest: +SKIP
    """
    scheme, _, rest = spec.partition(":")
    entry = _schemes().get(scheme)
    if entry is None or not rest:
        raise TeacherError(
            f"cannot parse teacher {spec!r}; expected SCHEME:NAME with one of the schemes "
            f"{', '.join(scheme_names())}, such as python:MODULE:FUNCTION"
        )
    return _loader(spec, entry)(rest)


def load_python_teacher(rest: str) -> nn.Module:
    """Call ``MODULE:FUNCTION`` and return the teacher that it builds.

    Raises:
        TeacherError: The function does not exist, or does not return a module.
    """
    module, _, name = rest.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
        inspect.signature(function).bind()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise TeacherError(
            f"teacher python:{rest}: {error}. Expected python:MODULE:FUNCTION, with the module on "
            f"PYTHONPATH and the function callable without arguments."
        ) from error
    teacher = function()  # errors of the user's own code are not wrapped
    if not isinstance(teacher, nn.Module):
        raise TeacherError(f"teacher python:{rest} returned {type(teacher).__name__}, not a Module")
    return teacher


def _schemes() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=_GROUP)}


def _loader(spec: str, entry: EntryPoint) -> Callable[[str], nn.Module]:
    try:
        loader: Callable[[str], nn.Module] = entry.load()
    except ImportError as error:
        advice = ""
        if entry.dist is not None and entry.dist.name == _OURS and "pip install" not in str(error):
            advice = f". Install it with `pip install {_OURS}[{entry.name}]`."
        raise TeacherError(
            f"teacher {spec!r} needs the {entry.name} extension: {error}{advice}"
        ) from error
    return loader
