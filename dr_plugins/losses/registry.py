"""Losses by name, the same in every host.

Those of this package are in `_OURS`. Any package can add one as an entry point of the group
``dr_plugins.losses``; it is imported on first use::

    [project.entry-points."dr_plugins.losses"]
    ReverseKL = "my_package.losses:ReverseKL"
"""

from __future__ import annotations

import ast
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from dr_plugins.errors import LossError
from dr_plugins.losses.base import DistillationLoss

_GROUP = "dr_plugins.losses"
_OURS = {"KDLoss": "dr_plugins.losses.kd_loss:KDLoss"}


def loss_names() -> list[str]:
    """Return the names of the losses that the installed packages provide.

    Example:
        >>> "KDLoss" in loss_names()
        True
    """
    return sorted(_known())


def build_loss(spec: str, **options: Any) -> DistillationLoss:
    """Build the loss that a specification names.

    Args:
        spec: One of `loss_names`, or ``MODULE:CLASS``; options may follow in brackets, as in
            ``KDLoss(label_weight=0.1)``.
        **options: Arguments of the loss, such as `temperature`; those in `spec` come first.

    Raises:
        LossError: There is no such loss, it is not a `DistillationLoss`, or it does not take an
            option.
        ValueError: An option is out of range.

    Example:
        >>> build_loss("KDLoss(label_weight=0.1)", temperature=2.0)
        KDLoss(temperature=2.0, label_weight=0.1, reduction='batchmean')
    """
    name, stated = _parse(spec)
    kind = _load(name)
    try:
        return kind(**{**options, **stated})
    except TypeError as error:
        raise LossError(f"loss {spec!r}: {error}. Give options that {name} takes") from error


def _known() -> dict[str, EntryPoint]:
    ours = {name: EntryPoint(name, value, _GROUP) for name, value in _OURS.items()}
    return {**{entry.name: entry for entry in entry_points(group=_GROUP)}, **ours}


def _parse(spec: str) -> tuple[str, dict[str, Any]]:
    name, bracket, _ = spec.partition("(")
    if not bracket:
        return name, {}
    try:
        call = ast.parse(f"f{spec[len(name) :]}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("expected keyword arguments")
        return name, {str(key.arg): ast.literal_eval(key.value) for key in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise LossError(
            f"loss {spec!r}: {error}. Write options as NAME(key=value, key=value)"
        ) from error


def _load(name: str) -> type[DistillationLoss]:
    known = _known()
    if name not in known and (":" not in name or not EntryPoint.pattern.match(name)):
        raise LossError(
            f"unknown loss {name!r}; expected {', '.join(sorted(known))}, or MODULE:CLASS"
        )
    try:
        kind = known.get(name, EntryPoint(name, name, _GROUP)).load()
    except (ImportError, AttributeError) as error:
        raise LossError(
            f"loss {name!r}: {error}. Expected MODULE:CLASS, with the module on PYTHONPATH"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, DistillationLoss)):
        raise LossError(
            f"loss {name!r} is no dr_plugins.losses.DistillationLoss; derive it from it"
        )
    return kind
