"""Convert a checkpoint from one library's layout to a file that another library loads."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from dr_models.catalog import CVNETS_MODELS, canonical_name
from dr_models.checkpoints.convention import (
    FORMAT_VERSION,
    check_metadata,
    is_converted,
    parse_convention,
)
from dr_models.checkpoints.files import METADATA_KEY
from dr_models.checkpoints.from_cvnets import from_cvnets
from dr_models.checkpoints.from_host import from_host, host_convention
from dr_models.checkpoints.load import Checkpoint, load_checkpoint, strip_prefixes
from dr_models.checkpoints.network_name import check_stated_name
from dr_models.checkpoints.network_record import check_options
from dr_models.checkpoints.values import DIGEST_KEY, digest
from dr_models.cvnets.inputs import InputConvention, cvnets_convention
from dr_models.cvnets.keys import State
from dr_models.cvnets.report import ConversionReport
from dr_plugins import __version__
from dr_plugins.errors import CheckpointError
from dr_plugins.shards.container import file_digest

TARGETS = {
    "timm": ".safetensors",
    "torchvision": ".safetensors",
    "detectron2": ".pth",
    "mmengine": ".pth",
}
"""Supported hosts, each with the suffix of the files that it loads."""


def convert(
    source: str | Path,
    out: str | Path | None = None,
    *,
    arch: str,
    to: str = "timm",
    averaged: bool | None = None,
    stock: bool = False,
    stored_indices: bool = False,
    allow_partial: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ConversionReport:
    """Convert a checkpoint file into one that another library loads with its own API.

    For timm and torchvision this is a safetensors file, for Detectron2 and MMEngine, which cannot
    read safetensors, a ``torch.save`` file. It includes its input convention; see
    `read_convention`.

    Args:
        source: See `load_checkpoint`.
        out: The file to write, ``*.safetensors`` or ``*.pth`` accordingly; an existing file is
            replaced once the new one is complete. None uses a name for the network and the host,
            such as ``cvnets_resnet50-for-timm.safetensors``, in the working directory.
        arch: A CVNets model (``resnet_50``), or ``timm:NAME`` or ``torchvision:NAME``.
        to: One of `TARGETS`.
        averaged: See `load_checkpoint`.
        stock: See `convert_state_dict`.
        stored_indices: See `convert_state_dict`.
        allow_partial: See `convert_state_dict`.
        mean: Mean of the images that a timm or torchvision network was trained on, for RGB from 0
            to 1. The default comes from the file if this package or timm's train.py stated it
            there, and from the library if not. CVNets models have a fixed one.
        std: Standard deviation, with the same defaults.

    Returns:
        What the conversion did with each key, and the name of the file.

    Raises:
        CheckpointError: The file cannot be read, converted exactly, or written; or it states that
            it holds another network.

    Example:
        >>> report = convert("best.pt", arch="resnet_50", to="timm")        # doctest: +SKIP
        >>> report.model                                                    # doctest: +SKIP
        'cvnets_resnet50'
    """
    _check_target(to)
    source, out = Path(source), Path(out or default_name(arch, to))
    _check_out(source, out, to)
    checkpoint = load_checkpoint(source, averaged)
    check_stated_name(checkpoint.arch, arch, source)
    with naming(source):
        state, report = convert_tensors(
            checkpoint.state, arch, to, stock, stored_indices, allow_partial
        )
    report.weights, report.out = checkpoint.weights, str(out)
    if checkpoint.record is not None:
        # A converted file does not record the arguments of its network.
        check_options(checkpoint.record, {}, str(source), whole=to in ("timm", "torchvision"))
    inputs = input_convention(report, checkpoint, source, mean, std)
    origin = {"source": source.name, "source_sha256": file_digest(source)}
    metadata = {
        **_metadata(report),
        **inputs.to_metadata(),
        **origin,
    }
    _write(out, state, {**metadata, DIGEST_KEY: digest(state, metadata)}, to)
    return report


@contextlib.contextmanager
def naming(path: object) -> Iterator[None]:
    """Add the file's name to errors about its tensors."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def default_name(arch: str, to: str) -> str:
    """Return a file name with the network and the host.

    Example:
        >>> default_name("resnet_50", "timm"), default_name("timm:resnet50d", "mmengine")
        ('cvnets_resnet50-for-timm.safetensors', 'resnet50d-for-mmengine.pth')
    """
    model = CVNETS_MODELS.get(canonical_name(arch))
    name = arch.rpartition(":")[2] if model is None else model.timm
    return f"{name}-for-{to}{TARGETS[to]}"


def _check_out(source: Path, out: Path, to: str) -> None:
    if out.suffix != TARGETS[to]:
        raise CheckpointError(f"{out}: {to} reads {TARGETS[to]} files; name it *{TARGETS[to]}")
    if out.exists() and source.exists() and out.samefile(source):
        raise CheckpointError(f"{out} is the source itself; choose another name for the output")


def convert_state_dict(
    state: Mapping[str, torch.Tensor],
    arch: str,
    to: str = "timm",
    *,
    stock: bool = False,
    stored_indices: bool = False,
    allow_partial: bool = False,
) -> tuple[State, ConversionReport]:
    """Convert a state dict to the names, and if needed the shapes, of another library.

    Args:
        state: Tensors by name; not modified.
        arch: See `convert`.
        to: One of `TARGETS`.
        stock: For timm, target an equivalent unmodified timm network, if there is one.
        stored_indices: Swin's averaged checkpoints hold damaged position indices. False rebuilds
            them; True reproduces the function of the damaged ones, as in the published accuracies
            of averaged weights.
        allow_partial: Accept missing and unexpected keys of the backbone.

    Returns:
        The converted tensors, and a report of what happened to each key.

    Raises:
        CheckpointError: The architecture differs, keys are missing or unexpected, or the host has
            no equivalent network.

    Example:
        >>> import timm
        >>> network = timm.create_model("resnet18")
        >>> state, report = convert_state_dict(network.state_dict(), "timm:resnet18", "detectron2")
        >>> state["stem.conv1.weight"].shape
        torch.Size([64, 3, 7, 7])
        >>> report.dropped[-2:]
        ['fc.weight', 'fc.bias']
    """
    _check_target(to)
    return convert_tensors(strip_prefixes(state), arch, to, stock, stored_indices, allow_partial)


def convert_tensors(
    state: State,
    arch: str,
    to: str,
    stock: bool = False,
    stored_indices: bool = False,
    allow_partial: bool = False,
) -> tuple[State, ConversionReport]:
    """Convert tensors without prefixes of wrappers; see `convert_state_dict`."""
    model = CVNETS_MODELS.get(canonical_name(arch))
    if model is not None:
        converted, report = from_cvnets(state, model, to, stock, stored_indices)
    elif stock or stored_indices:
        raise CheckpointError(
            f"{arch} is not one of the CVNets models; only these have a stock variant and stored "
            f"indices. Remove these options"
        )
    else:
        converted, report = from_host(state, arch, to)
    report.check_complete(allow_partial)
    return converted, report


def _check_target(to: str) -> None:
    if to not in TARGETS:
        raise CheckpointError(f"cannot convert to {to!r}; expected one of {', '.join(TARGETS)}")


def input_convention(
    report: ConversionReport,
    checkpoint: Checkpoint,
    path: str | Path,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> InputConvention:
    """Return the input convention of a checkpoint's network; see `convert`.

    Args:
        report: Report of its conversion.
        checkpoint: The checkpoint.
        path: The file, for messages.
        mean: The user's mean; None for that of the file or the library.
        std: The user's standard deviation; None for that of the file or the library.
    """
    if report.layout == "cvnets":
        if mean is not None or std is not None:
            raise CheckpointError(
                f"{report.arch} was trained on images from 0 to 1 without mean and std; remove "
                f"mean and std"
            )
        return cvnets_convention(CVNETS_MODELS[report.arch])
    if mean is None and std is None and is_converted(checkpoint.metadata):
        # Metadata of this package take precedence over the host's defaults.
        return parse_convention(check_metadata(checkpoint.metadata, path), path)
    return host_convention(
        report.layout,
        report.arch,
        checkpoint.mean if mean is None else mean,
        checkpoint.std if std is None else std,
    )


def _metadata(report: ConversionReport) -> dict[str, str]:
    return {
        "format": "pt",  # libraries check this for the framework of the tensors
        "format_version": str(FORMAT_VERSION),
        "arch": report.arch,
        "source_layout": report.layout,
        "layout": report.to,
        "model": report.model,
        "model_kwargs": json.dumps(report.model_kwargs),
        "num_classes": str(report.num_classes),
        "weights": report.weights,
        "writer": f"dr-plugins {__version__}",
    }


def _write(path: Path, state: State, metadata: dict[str, str], to: str) -> None:
    """Write the file atomically."""
    temporary = path.with_name(f"{path.name}.tmp")
    # safetensors accepts neither views nor shared memory.
    tensors = {
        key: value.clone(memory_format=torch.contiguous_format) for key, value in state.items()
    }
    try:
        if TARGETS[to] == ".safetensors":
            safetensors.torch.save_file(tensors, temporary, metadata)
        else:
            torch.save({**_WRAPPED[to](tensors), METADATA_KEY: metadata}, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write {path}: {error}. Choose a writable directory with enough space"
        ) from error


_WRAPPED: dict[str, Callable[[State], dict[str, Any]]] = {
    "mmengine": lambda state: {"state_dict": state},
    # With this flag, Detectron2 matches suffixes of names: its models have the backbone under a
    # prefix, and C4 models have the last stage elsewhere.
    "detectron2": lambda state: {"model": state, "matching_heuristics": True},
}
