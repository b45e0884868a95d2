"""Reading checkpoints: which of a file's tensors are the network's, and what else it says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dr_models.checkpoints.files import read_file
from dr_models.checkpoints.record import (
    RECORD_KEY,
    NetworkRecord,
    decode_record,
    record_of_mmengine,
)
from dr_models.checkpoints.recorded import recorded_name
from dr_models.checkpoints.values import DIGEST_KEY, check_values, digest
from dr_plugins.errors import CheckpointError

__all__ = ["Checkpoint", "load_checkpoint", "strip_prefixes"]

_RAW = ("state_dict", "model_state_dict", "model", "module")
_AVERAGED = ("state_dict_ema", "ema_state_dict", "model_ema", "ema")
# What wrappers for distributed training put before every name, and the classifiers of the MMEngine
# and Detectron2 extensions.
_PREFIXES = ("module.", "model.")
# What compilation, sharding and checkpointing of activations put before the names of any part.
_WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
_COUNTERS = frozenset(("n_averaged", "steps"))  # of PyTorch's AveragedModel, and of MMEngine's
_SHOWN = 60


class Checkpoint(NamedTuple):
    """The tensors of a file.

    Attributes:
        state: By name, prefixes of wrappers removed.
        weights: Under which name of a training checkpoint they were; empty for a bare state dict.
        arch: What the file calls its network; empty if it gives no name that a library knows.
        record: How a classifier of one of the extensions was built; None if there is nothing.
        metadata: What the file states about itself, as converted files do.

    Example:
        >>> Checkpoint({"fc.bias": torch.zeros(10)}, weights="state_dict_ema").arch
        ''
    """

    state: dict[str, torch.Tensor]
    weights: str
    arch: str = ""
    record: NetworkRecord | None = None
    metadata: Mapping[str, str] = {}


def load_checkpoint(path: str | Path, averaged: bool | None = None) -> Checkpoint:
    """Read a state dict, alone or within a training checkpoint.

    For the files that are read see `read_file`, for the tensors `check_values`.

    Args:
        path: The file.
        averaged: Of a training checkpoint that holds both, take the averaged weights (True) or the
            plain ones (False). None takes the averaged ones where there are any, as timm does.

    Raises:
        CheckpointError: Missing, damaged or unsafe file; one without a state dict; one that does
            not hold the weights asked for; or tensors that are no weights.

    Example:
        >>> checkpoint = load_checkpoint("last.pth.tar")                    # doctest: +SKIP
        >>> checkpoint.weights, checkpoint.arch                             # doctest: +SKIP
        ('state_dict_ema', 'timm:resnet50')
    """
    path = Path(path)
    content, metadata = read_file(path)
    weights, state = _choose(content, averaged, path)
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    odd = next((key for key in tensors if not isinstance(key, str)), None)
    if odd is not None:
        raise CheckpointError(
            f"{path} names a tensor by a {type(odd).__name__}; expected a state dict, with strings"
        )
    stripped = strip_prefixes(tensors)
    check_values(stripped, path)
    if DIGEST_KEY in metadata and metadata[DIGEST_KEY] != digest(stripped, metadata):
        raise CheckpointError(
            f"{path} does not hold what was written: it is damaged, or was changed. Convert the "
            f"original again"
        )
    record = decode_record(stripped[RECORD_KEY]) if RECORD_KEY in stripped else None
    if record is not None:
        del stripped[RECORD_KEY]
    elif weights:
        record = record_of_mmengine(content.get("meta"))
    arch = record.arch if record else recorded_name(content if weights else {}, metadata)
    return Checkpoint(stripped, weights, arch, record, metadata)


def strip_prefixes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Remove what wrappers add: ``module.``, ``model.``, ``_orig_mod.``, counts of averages.

    Raises:
        CheckpointError: Two tensors would have the same name.

    Example:
        >>> list(strip_prefixes({"module.layer1._orig_mod.0.weight": torch.zeros(1)}))
        ['layer1.0.weight']
    """
    stripped: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        name = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
        while name.startswith(_PREFIXES):
            name = name.partition(".")[2]
        if name in stripped:
            raise CheckpointError(f"the checkpoint holds {name} twice, the second time as {key}")
        stripped[name] = value.detach()
    for name in _COUNTERS & stripped.keys():
        if stripped[name].numel() == 1:
            del stripped[name]
    return stripped


def _choose(content: Any, averaged: bool | None, path: Path) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}; expected a state dict or a training "
            f"checkpoint with one"
        )
    choices = {None: (*_AVERAGED, *_RAW), True: _AVERAGED, False: _RAW}
    names: tuple[str, ...] = choices[averaged]
    if "message_hub" in content and _has_tensors(content.get("ema_state_dict")):
        # Of MMEngine's Runner with EMAHook, which exchanges the two when it saves.
        names = ("ema_state_dict",) if averaged is False else ("state_dict",)
    for name in names:
        if _has_tensors(content.get(name)):
            return name, content[name]
    if _has_tensors(content) and not averaged:
        return "", content
    raise CheckpointError(
        f"{path} holds {_shorten(content) or 'nothing'}; expected a state dict, or one under "
        f"{', '.join(names)}"
    )


def _has_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(each, torch.Tensor) for each in value.values()
    )


def _shorten(content: Mapping[Any, Any]) -> str:
    """The first keys, of which a file may hold any number, length and type."""
    keys = list(content)[:8]
    return ", ".join(
        key[:_SHOWN] if isinstance(key, str) else f"a {type(key).__name__}" for key in keys
    )
