"""Record the name and arguments of a network in its checkpoint.

Two networks may have the same names and shapes and compute different things, such as a ResNet with
and without ``aa_layer``. An additional tensor in the state dict distinguishes them.
"""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from dr_plugins.errors import CheckpointError

RECORD_KEY = "_extra_state"
"""PyTorch's key for extra state of a module."""

_FORMAT = "dr_plugins.network"
_BYTES = 1024  # one shape for all, because Detectron2 skips tensors of another shape
_CLASSIFIER = "TimmClassifier"  # of the MMEngine extension
_NOT_TIMMS = frozenset(  # its arguments that it does not pass to timm.create_model
    (
        *("type", "model", "num_classes", "loss", "data_preprocessor", "grad_checkpointing"),
        *("sync_bn", "init_cfg", "_scope_"),
    )
)
# May differ between pretraining and transfer: regularization, image size and first weights.
_FREE = frozenset(
    (
        *("attn_drop_rate", "drop_block_rate", "drop_path_rate", "drop_rate", "patch_drop_rate"),
        *("pos_drop_rate", "proj_drop_rate", "dynamic_img_pad", "dynamic_img_size", "img_size"),
        *("strict_img_size", "num_classes", "in_chans", "pretrained", "checkpoint_path"),
    )
)
# Backbones do not pool, and detectors dilate them.
_FREE_IN_BACKBONES = frozenset(("output_stride", "global_pool"))


_OF_TRAIN_PY = {"gp": "global_pool", "bn_eps": "bn_eps"}  # names of its options, and timm's


class NetworkRecord(NamedTuple):
    """Arguments for building a network with timm.

    Attributes:
        arch: timm's name.
        options: Other arguments of `timm.create_model`, as JSON values.
    """

    arch: str
    options: dict[str, Any]


def encode_record(arch: str, options: Mapping[str, Any]) -> torch.Tensor:
    """Encode a record as a uint8 tensor whose length is a multiple of 1024.

    Example:
        >>> decode_record(encode_record("resnet50", {"aa_layer": "avg"}))
        NetworkRecord(arch='resnet50', options={'aa_layer': 'avg'})
    """
    content = {"format": _FORMAT, "arch": arch, "options": _plain(options)}
    text = json.dumps(content, sort_keys=True).encode()
    return torch.tensor(list(text.ljust(-(-len(text) // _BYTES) * _BYTES)), dtype=torch.uint8)


def decode_record(value: torch.Tensor) -> NetworkRecord | None:
    """Decode a record; None if the tensor does not hold one."""
    if value.ndim != 1 or value.is_complex():
        return None
    try:
        # Averaging key by key turns the bytes of equal records into floating-point numbers.
        content = json.loads(bytes(round(byte) for byte in value.tolist()))
    except (ValueError, OverflowError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        return None
    arch, options = content.get("arch"), content.get("options")
    if not isinstance(arch, str) or not isinstance(options, dict):
        return None
    return NetworkRecord(arch, options)


def may_be_record(value: torch.Tensor) -> bool:
    """Whether a tensor has the shape of a record, readable or not."""
    return value.ndim == 1 and value.numel() > 0 and value.numel() % _BYTES == 0


def record_of_mmengine(meta: Any) -> NetworkRecord | None:
    """Read the arguments of a `TimmClassifier` from the ``meta`` of MMEngine's Runner.

    It holds the configuration as Python source; only literals are evaluated.
    """
    text = meta.get("cfg") if isinstance(meta, Mapping) else None
    if not isinstance(text, str) or _CLASSIFIER not in text:
        return None
    try:
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "model":
                model = _literal(statement.value)
                if isinstance(model, dict) and _is_classifier(model.get("type")):
                    options = {key: model[key] for key in model.keys() - _NOT_TIMMS}
                    return NetworkRecord(str(model["model"]), options)
    except (KeyError, SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        pass
    return None


def _is_classifier(kind: Any) -> bool:
    """Whether a ``type`` names it, perhaps with a scope or, for a class, its module."""
    return isinstance(kind, str) and kind.rpartition(".")[2] == _CLASSIFIER


def options_of_train_py(arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the options of timm's train.py that it passed to `timm.create_model`.

    Args:
        arguments: Those that its checkpoints hold as ``args``.

    Returns:
        Those that change what the network computes; None for other scripts' arguments.

    Example:
        >>> options_of_train_py({"model_kwargs": {"act_layer": "gelu"}, "gp": None})
        {'act_layer': 'gelu'}
    """
    kwargs = arguments.get("model_kwargs")
    if not isinstance(kwargs, Mapping):
        return None
    named = {name: arguments.get(option) for option, name in _OF_TRAIN_PY.items()}
    return {**{name: value for name, value in named.items() if value is not None}, **kwargs}


def _literal(node: ast.expr) -> Any:
    """Evaluate a literal expression of a configuration that MMEngine wrote."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict" and not node.args:
        return {str(each.arg): _literal(each.value) for each in node.keywords}
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(each) for each in node.elts]
    return ast.literal_eval(node)


def check_options(
    record: NetworkRecord, options: Mapping[str, Any], path: str, *, whole: bool = False
) -> None:
    """Compare the arguments that affect what a network computes.

    Args:
        record: Record of the checkpoint.
        options: Arguments of the network to load.
        path: The checkpoint, for the message.
        whole: The network is loaded with its classifier, not as a backbone.

    Raises:
        CheckpointError: An argument differs.
    """
    free = _FREE if whole else _FREE | _FREE_IN_BACKBONES
    trained, own = (
        {name: value for name, value in each.items() if name not in free}
        for each in (record.options, _plain(options))
    )
    for name in sorted(trained.keys() | own.keys()):
        if trained.get(name) != own.get(name):
            raise CheckpointError(
                f"{path} holds {record.arch} trained with {name}={trained.get(name)!r}, but the "
                f"network here has {name}={own.get(name)!r}: the tensors fit, but the features "
                f"would be wrong. Build a timm network with the same arguments (Detectron2: "
                f"MODEL.DR_TIMM.OPTIONS, lazy: TimmBackbone(...); MMEngine: TimmFeatures)"
            )


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dict(options), default=_jsonable))
    return plain


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    # Not repr, which may contain a memory address.
    return getattr(value, "__qualname__", type(value).__qualname__)
