"""Load checkpoints: select the network's tensors and read what the file states about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dr_models.checkpoints.files import read_file
from dr_models.checkpoints.network_name import script_options, stated_name
from dr_models.checkpoints.network_record import (
    RECORD_KEY,
    NetworkRecord,
    decode_record,
    may_be_record,
    options_of_train_py,
    record_of_mmengine,
)
from dr_models.checkpoints.values import DIGEST_KEY, check_values, digest
from dr_plugins.errors import CheckpointError

_RAW = ("state_dict", "model_state_dict", "model", "module")
_AVERAGED = ("state_dict_ema", "ema_state_dict", "model_ema", "ema")
_AVERAGES = ("ema", "swa", "avg", "average")  # in names of what other scripts save
# Prefixes of all names, from wrappers for distributed training and from the classifiers of the
# MMEngine and Detectron2 extensions.
_PREFIXES = ("module.", "model.")
# Inserted into names by compilation, sharding and activation checkpointing.
_WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
_COUNTERS = frozenset(("n_averaged", "steps"))  # of PyTorch's AveragedModel, and of MMEngine's
_SHOWN = 60


class Checkpoint(NamedTuple):
    """The tensors of a file.

    Attributes:
        state: Tensors by name, without the prefixes of wrappers.
        weights: The training checkpoint's key for the tensors; empty for a bare state dict.
        arch: Name of the network according to the file; empty if no library knows it.
        record: How timm's train.py or one of the extensions built it; None if not recorded.
        metadata: Metadata of the file, such as that of converted files.
        mean: Of the images, RGB from 0 to 1, if it was an option of timm's train.py; else None.
        std: Standard deviation of the images, likewise.

    Example:
        >>> Checkpoint({"fc.bias": torch.zeros(10)}, weights="state_dict_ema").arch
        ''
    """

    state: dict[str, torch.Tensor]
    weights: str
    arch: str = ""
    record: NetworkRecord | None = None
    metadata: Mapping[str, str] = {}
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def load_checkpoint(path: str | Path, averaged: bool | None = None) -> Checkpoint:
    """Load a state dict, bare or from a training checkpoint.

    See `read_file` for supported files and `check_values` for supported tensors.

    Args:
        path: The file.
        averaged: Load the averaged weights (True) or the plain ones (False) of a training
            checkpoint. None prefers averaged weights if there are any, as timm does.

    Raises:
        CheckpointError: The file is missing, damaged or unsafe, has no state dict or not the
            requested weights, its tensors are not weights, or `averaged` is None and the file seems
            to have averaged weights in a layout that no library here uses.

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
            f"{path} has a tensor with a key of type {type(odd).__name__}; expected strings"
        )
    stripped = strip_prefixes(tensors)
    check_values(stripped, path)
    if DIGEST_KEY in metadata and metadata[DIGEST_KEY] != digest(stripped, metadata):
        raise CheckpointError(
            f"{path} does not match its digest: it is damaged or was modified. Convert the "
            f"original again"
        )
    record = _take_record(stripped, path)
    outside = content if weights else {}
    options, arch = script_options(outside), stated_name(outside, metadata)
    if record is None and weights:
        record = record_of_mmengine(content.get("meta"))
    if record is not None:
        arch = record.arch
    elif (building := options_of_train_py(options)) is not None:
        record = NetworkRecord(arch, building)
    mean, std = (_channels(options, name) for name in ("mean", "std"))
    return Checkpoint(stripped, weights, arch, record, metadata, mean, std)


def _channels(options: Mapping[str, Any], name: str) -> tuple[float, ...] | None:
    """Mean or std that timm's train.py was given, as timm reads it: one number is for all three."""
    values = options.get(name)
    if "img_size" not in options or not isinstance(values, list | tuple):
        return None
    if not values or not all(isinstance(value, int | float) for value in values):
        return None
    return tuple(values) * 3 if len(values) == 1 else tuple(values)


def _take_record(state: dict[str, torch.Tensor], path: Path) -> NetworkRecord | None:
    """Remove the extra state of the outermost module: a record, or something of a wrapper."""
    kept = state.pop(RECORD_KEY, None)
    record = None if kept is None else decode_record(kept)
    if kept is not None and record is None and may_be_record(kept):
        raise CheckpointError(
            f"{path}: {RECORD_KEY} says how the network was built, but is damaged. Use the original"
        )
    return record


def strip_prefixes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Remove the prefixes and counters that wrappers of a network add to its state dict.

    These are ``module.``, ``model.``, ``_orig_mod.`` and the like.

    Raises:
        CheckpointError: Two tensors would get the same name.

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
        # MMEngine's Runner with EMAHook swaps the two when it saves.
        names = ("ema_state_dict",) if averaged is False else ("state_dict",)
    for name in names:
        if _has_tensors(content.get(name)):
            if averaged is None and name in _RAW and "message_hub" not in content:
                _refuse_other_averages(content, name, path)
            return name, content[name]
    if _has_tensors(content) and not averaged:
        return "", content
    raise CheckpointError(
        f"{path} holds {_shorten(content) or 'nothing'}; expected a state dict, or one under "
        f"{', '.join(names)}"
    )


def _refuse_other_averages(content: Mapping[Any, Any], chosen: str, path: Path) -> None:
    """Raise if plain weights were chosen, but others beside them seem to be averaged.

    By their name, and since they have the shapes of most of the chosen ones.
    """
    shapes = _shapes(content[chosen])
    for name, value in content.items():
        is_named = isinstance(name, str) and any(part in name.lower() for part in _AVERAGES)
        if is_named and 2 * (_shapes(value) & shapes).total() > shapes.total():
            raise CheckpointError(
                f"{path} holds plain weights under {chosen} and probably averaged ones under "
                f"{name[:_SHOWN]}, in a layout that is not known; expected one state dict under "
                f"{', '.join(_AVERAGED)}. Save the state dict that you want as a file; plain "
                f"weights can also be chosen by --plain of `dr-plugins convert`, and by "
                f"?weights=plain in an address imagenet-plus://"
            )


def _shapes(value: Any) -> Counter[torch.Size]:
    return Counter(tensor.shape for tensor in _tensors(value) if tensor.numel() > 1)


def _tensors(value: Any, depth: int = 3) -> Iterator[torch.Tensor]:
    """All tensors in containers, which may be nested."""
    if isinstance(value, torch.Tensor):
        yield value
    elif depth and isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each, depth - 1)


def _has_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(each, torch.Tensor) for each in value.values()
    )


def _shorten(content: Mapping[Any, Any]) -> str:
    """Format the first keys; a file may hold any number of keys, of any length and type."""
    keys = list(content)[:8]
    return ", ".join(
        key[:_SHOWN] if isinstance(key, str) else f"a {type(key).__name__}" for key in keys
    )
