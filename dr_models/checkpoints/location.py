"""Checkpoint addresses in host configurations: a path, or a path with options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from dr_plugins.errors import CheckpointError

SCHEME = "imagenet-plus://"
"""Prefix of a path in settings where the host would otherwise load the file."""

SOURCES = ("auto", "cvnets", "timm", "torchvision")
"""Libraries whose names a checkpoint may use."""

_WEIGHTS = {"averaged": True, "plain": False}
_STORED = {"1": True, "0": False}
_OPTIONS = (
    f"source={'|'.join(SOURCES)}, arch=NAME, weights={'|'.join(_WEIGHTS)}, stored_indices=1 and "
    f"new_keys=NAME,..."
)


@dataclass(frozen=True)
class CheckpointLocation:
    """The path of a checkpoint, with options for what the file does not state.

    Attributes:
        path: The file; ``~`` is the home directory.
        source: One of `SOURCES`; ``auto`` detects it from the names of the tensors.
        arch: A CVNets model (``resnet_50``), or a network of timm or torchvision; None detects it.
        averaged: See `load_checkpoint`.
        stored_indices: See `convert_state_dict`.
        new_keys: Names of the model's tensors that may be missing in the checkpoint, with wildcards
            (``*.conv_offset.*``); they keep their values.

    Raises:
        CheckpointError: `source` is not one of `SOURCES`, or the path is empty.

    Example:
        >>> place = CheckpointLocation.parse("imagenet-plus://r50.pt?source=cvnets&arch=resnet_50")
        >>> place.path, place.source, place.arch
        ('r50.pt', 'cvnets', 'resnet_50')
    """

    path: str
    source: str = "auto"
    arch: str | None = None
    averaged: bool | None = None
    stored_indices: bool = False
    new_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise CheckpointError(
                f"source is {self.source!r}; expected one of {', '.join(SOURCES)}"
            )
        if not self.path:
            raise CheckpointError("the path of the checkpoint is empty")

    @classmethod
    def parse(cls, text: str, **defaults: Any) -> CheckpointLocation:
        """Parse ``imagenet-plus://PATH?OPTION=VALUE&...`` or a plain path.

        The options start at the last question mark, unless it is part of the path: a file with
        the whole name exists, or no option follows it. Paths are not percent-decoded.

        Args:
            text: The setting.
            **defaults: Attributes that the setting does not specify.

        Raises:
            CheckpointError: An option is unknown, empty or repeated.
        """
        if not text.startswith(SCHEME):
            return cls(**{**defaults, "path": text})
        path, query = _split(text[len(SCHEME) :])
        found = dict(defaults)
        pairs = parse_qsl(query, keep_blank_values=True)
        if len({name for name, _ in pairs}) != len(pairs):
            raise CheckpointError(f"{text} has an option twice")
        for name, value in pairs:
            if name in ("source", "arch") and value:
                found[name] = value
            elif name == "weights" and value in _WEIGHTS:
                found["averaged"] = _WEIGHTS[value]
            elif name == "stored_indices" and value in _STORED:
                found["stored_indices"] = _STORED[value]
            elif name == "new_keys" and all(value.split(",")):
                found["new_keys"] = tuple(value.split(","))
            else:
                raise CheckpointError(
                    f"{text}: {name}={value} is not a valid option; expected {_OPTIONS}"
                )
        return cls(**{**found, "path": path})

    @property
    def file(self) -> Path:
        """The path, with ``~`` expanded."""
        return _file(self.path)


def _split(place: str) -> tuple[str, str]:
    path, mark, query = place.rpartition("?")
    if not mark or "=" not in query or set(query) & set("/\\") or _is_file(place):
        return place, ""
    return path, query


def _file(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such home directory: a plain file name
        return Path(path)


def _is_file(path: str) -> bool:
    try:
        return _file(path).is_file()
    except (OSError, ValueError):
        return False
