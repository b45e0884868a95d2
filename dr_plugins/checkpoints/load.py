"""Reading checkpoints: tensors out, nothing executed."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import serialization

from dr_plugins.checkpoints.record import RECORD_KEY, NetworkRecord, decode_record
from dr_plugins.errors import CheckpointError

__all__ = ["Checkpoint", "load_checkpoint", "strip_prefixes"]

_RAW = ("state_dict", "model_state_dict", "model")
_AVERAGED = ("state_dict_ema", "ema_state_dict", "model_ema")
# What wrappers for distributed training and compilation put before every name, and the classifiers
# of the MMEngine and Detectron2 extensions.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_MEANINGLESS = (
    "argparse.Namespace",  # timm's train.py stores its arguments
    "mmengine.logging.history_buffer.HistoryBuffer",  # and MMEngine's Runner its log
    "builtins.getattr",  # as which methods of that buffer are stored
    "numpy.core.multiarray.scalar",  # a metric; the second name is numpy 2's
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
)


class Checkpoint(NamedTuple):
    """The tensors of a file.

    Attributes:
        state: By name, prefixes of wrappers removed.
        weights: Under which name of a training checkpoint they were; empty for a bare state dict.
        arch: What a training checkpoint says that it is, as timm's do; empty if it says nothing.
        record: What a classifier of the Detectron2 extension says; None if there is nothing.
    """

    state: dict[str, torch.Tensor]
    weights: str
    arch: str = ""
    record: NetworkRecord | None = None


def load_checkpoint(path: str | Path, averaged: bool | None = None) -> Checkpoint:
    """Read a state dict, alone or within a training checkpoint.

    safetensors files and those of ``torch.save`` are told apart by their content. Of the latter,
    tensors and plain containers are read (PyTorch's ``weights_only=True``). What training scripts
    store besides (arguments, numpy numbers, paths) becomes an object without content, so that
    nothing of it is ever executed; any other class is refused.

    Args:
        path: The file.
        averaged: Of a training checkpoint that holds both, take the averaged weights (True) or the
            plain ones (False). None takes the averaged ones where there are any, as timm does.

    Raises:
        CheckpointError: Missing, damaged or unsafe file; one without a state dict; or one that
            does not hold the weights asked for.
    """
    path = Path(path)
    content = _read(path)
    weights, state = _choose(content, averaged, path)
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    for key, value in tensors.items():
        if value.layout is not torch.strided or value.is_quantized:
            raise CheckpointError(
                f"{path}: {key} is a sparse or quantized tensor; only dense ones can be converted"
            )
    stripped = strip_prefixes(tensors)
    record = decode_record(stripped[RECORD_KEY]) if RECORD_KEY in stripped else None
    if record is not None:
        del stripped[RECORD_KEY]
        return Checkpoint(stripped, weights, record.arch, record)
    arch = content.get("arch") if weights else ""
    return Checkpoint(stripped, weights, arch if isinstance(arch, str) else "")


def strip_prefixes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Remove what wrappers put before names, ``module.``, ``_orig_mod.`` and ``model.``.

    Raises:
        CheckpointError: Two tensors would have the same name.
    """
    stripped: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        name = key
        while name.startswith(_PREFIXES):
            name = name.partition(".")[2]
        if name in stripped:
            raise CheckpointError(f"the checkpoint holds {name} twice, the second time as {key}")
        stripped[name] = value.detach()
    return stripped


def _read(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            head, size = file.read(9), path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if head.endswith(b"{") and int.from_bytes(head[:8], "little") + 8 <= size:
        kind = "safetensors"
    elif head.startswith((b"PK\x03\x04", b"\x80")):
        kind = "PyTorch"
    else:
        raise CheckpointError(
            f"{path} is neither a safetensors file nor one of torch.save; expected a checkpoint "
            f"such as ml-dr's best.pt (a failed download is often a web page)"
        )
    try:
        return safetensors.torch.load_file(path) if kind == "safetensors" else _torch_load(path)
    except CheckpointError:
        raise
    # A damaged file makes these libraries raise whatever they stumble over.
    except Exception as error:
        raise CheckpointError(
            f"{path} is a damaged {kind} file: {error}. Compare its size with that of the original "
            f"({size:,} bytes here)"
        ) from error


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        pass
    try:
        with _stand_ins():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition(" was not an allowed global")[0].rpartition(": ")[2]
        raise CheckpointError(
            f"{path} holds more than tensors and plain data, which is not read, because it could "
            f"execute code: {reason}. If you trust the file, load it where it was made and save "
            f"its state dict alone"
        ) from error


class _Nothing:
    """Takes the place of an object that no conversion needs."""

    def __new__(cls, *args: Any) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _stand_in(name: str) -> type:
    module, _, qualified = name.rpartition(".")
    return type(qualified, (_Nothing,), {"__module__": module})


_STAND_INS: list[Any] = [_stand_in(name) for name in _MEANINGLESS]


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Let PyTorch's restricted unpickler put nothing where it would refuse a name."""
    before = serialization.get_safe_globals()
    serialization.add_safe_globals(_STAND_INS)
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(before)


def _choose(content: Any, averaged: bool | None, path: Path) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}; expected a state dict or a training "
            f"checkpoint with one"
        )
    if "message_hub" in content and isinstance(content.get("ema_state_dict"), Mapping):
        return _of_mmengine(content, averaged)
    choices = {None: (*_AVERAGED, *_RAW), True: _AVERAGED, False: _RAW}
    names: tuple[str, ...] = choices[averaged]
    for name in names:
        if isinstance(content.get(name), Mapping):
            return name, content[name]
    if any(isinstance(value, torch.Tensor) for value in content.values()) and not averaged:
        return "", content
    raise CheckpointError(
        f"{path} holds {', '.join(map(str, list(content)[:8])) or 'nothing'}; expected a state "
        f"dict, or one under {', '.join(names)}"
    )


def _of_mmengine(
    content: Mapping[str, Any], averaged: bool | None
) -> tuple[str, Mapping[str, Any]]:
    """Of MMEngine's Runner with EMAHook, which exchanges the two when it saves."""
    if averaged is not False:
        return "state_dict", content["state_dict"]
    plain = {key: value for key, value in content["ema_state_dict"].items() if key != "steps"}
    return "ema_state_dict", plain
