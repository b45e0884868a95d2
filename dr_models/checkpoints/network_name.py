"""Compare the network's name in a checkpoint file with the name that the user states.

Two networks may have the same names and shapes and compute different things (`resnet18` and
`resnetblur18`); only the name distinguishes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dr_models.catalog import CVNETS_MODELS, canonical_name
from dr_models.checkpoints import hosts
from dr_plugins.errors import CheckpointError


def stated_name(content: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """Return the network's name according to a file; empty if no library knows it.

    Sources are timm's ``arch``, the ``model`` or ``arch`` of a script's stored ``args``, and the
    metadata of safetensors files.

    Example:
        >>> stated_name({"arch": "resnet50", "state_dict": {}}, {})
        'resnet50'
    """
    arguments = script_options(content)
    names = (
        metadata.get("model"),
        metadata.get("arch"),
        metadata.get("architecture"),
        content.get("arch"),
        arguments.get("model"),
        arguments.get("arch"),
    )
    known = (_known(name) for name in names if isinstance(name, str) and name)
    return next(filter(None, known), "")


def script_options(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of a training script, which timm's train.py stores as ``args``."""
    options = content.get("args")
    if not isinstance(options, Mapping):
        options = getattr(options, "__dict__", {})
    return options


def _known(name: str) -> str:
    name = name.rpartition(":")[2].rpartition("/")[2]
    return name if canonical_name(name) in CVNETS_MODELS else hosts.known_name(name)


def check_stated_name(stated: str, requested: str, path: object) -> None:
    """Raise if the user's name of a network is not the file's.

    Args:
        stated: Name from `stated_name`; an empty one is not compared.
        requested: The user's name, such as ``timm:resnet18`` or ``resnet_50``.
        path: The file, for the message.

    Raises:
        CheckpointError: The names differ.

    Example:
        >>> check_stated_name("resnet18.a1_in1k", "timm:resnet18", "x.pth")
    """
    plain = _known(requested).partition(".")[0]
    if not stated or stated.partition(".")[0] in (plain, requested.rpartition(":")[2]):
        return
    if ":" not in requested and cvnets_name(stated) == cvnets_name(requested):
        return
    raise CheckpointError(
        f"{path} states that it holds {stated}, but {requested} was requested: networks with the "
        f"same names and shapes may compute something else. Set arch to {stated}, or use "
        f"another checkpoint"
    )


def cvnets_name(name: str) -> str:
    """Return the catalog's spelling of a CVNets model, also for timm's (``resnet50``)."""
    spellings = (canonical_name(spelling) for spelling in (name, f"cvnets_{name}"))
    return next((spelling for spelling in spellings if spelling in CVNETS_MODELS), name)
