"""From a checkpoint in one library's layout to a file that another library loads."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from dr_models.checkpoints.convention import (
    FORMAT_VERSION,
    InputConvention,
    check_metadata,
    cvnets_convention,
    is_converted,
    parse_convention,
)
from dr_models.checkpoints.files import METADATA_KEY
from dr_models.checkpoints.from_cvnets import from_cvnets
from dr_models.checkpoints.from_host import from_host, host_convention
from dr_models.checkpoints.load import load_checkpoint, strip_prefixes
from dr_models.checkpoints.record import check_options
from dr_models.checkpoints.recorded import check_recorded
from dr_models.checkpoints.values import DIGEST_KEY, digest
from dr_models.cvnets.catalog import CVNETS_MODELS, canonical_name
from dr_models.cvnets.keys import State
from dr_models.cvnets.report import ConversionReport
from dr_plugins import __version__
from dr_plugins.errors import CheckpointError
from dr_plugins.shards.container import file_digest

__all__ = ["TARGETS", "convert", "convert_state_dict", "default_name"]

TARGETS = {
    "timm": ".safetensors",
    "torchvision": ".safetensors",
    "detectron2": ".pth",
    "mmengine": ".pth",
}
"""Hosts whose names can be written, each with the kind of file that it loads by its own means."""


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
    """Convert a checkpoint file into one that another library loads by its own means.

    For timm and torchvision that is a safetensors file, for Detectron2 and MMEngine, which read no
    such files, one of ``torch.save``. It carries its input convention, see `read_convention`.

    Args:
        source: See `load_checkpoint`.
        out: The file to write, ``*.safetensors`` or ``*.pth`` accordingly; an older one is replaced
            when the new one is whole. None takes a name that says what the file is for, such as
            ``cvnets_resnet50-for-timm.safetensors``, in the working directory.
        arch: A CVNets model (``resnet_50``), or ``timm:NAME`` or ``torchvision:NAME``.
        to: One of `TARGETS`.
        averaged: See `load_checkpoint`.
        stock: See `convert_state_dict`.
        stored_indices: Likewise.
        allow_partial: Likewise.
        mean: Of the images that a timm or torchvision network was trained on, for RGB from 0 to 1;
            by default what the file says, if this package wrote it, and else what that library
            feeds it. CVNets' models have their own.
        std: Likewise.

    Returns:
        What became of each key, and the name of the file.

    Raises:
        CheckpointError: The file cannot be read, converted exactly, or written; or it says that it
            holds another network.

    Example:
        >>> report = convert("best.pt", arch="resnet_50", to="timm")        # doctest: +SKIP
        >>> report.model                                                    # doctest: +SKIP
        'cvnets_resnet50'
    """
    if to not in TARGETS:
        raise CheckpointError(f"cannot convert to {to!r}; expected one of {', '.join(TARGETS)}")
    source, out = Path(source), Path(out or default_name(arch, to))
    _check_out(source, out, to)
    checkpoint = load_checkpoint(source, averaged)
    check_recorded(checkpoint.arch, arch, source)
    with naming(source):
        state, report = convert_state_dict(
            checkpoint.state,
            arch,
            to,
            stock=stock,
            stored_indices=stored_indices,
            allow_partial=allow_partial,
        )
    report.weights, report.out = checkpoint.weights, str(out)
    if checkpoint.record is not None:
        # A converted file does not say with which arguments its network is built.
        check_options(checkpoint.record, {}, str(source))
    inputs = _convention(report, mean, std, checkpoint.metadata, source)
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
    """Let an error about tensors name their file."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def default_name(arch: str, to: str) -> str:
    """A file name that says which network it holds, and who loads it.

    Example:
        >>> default_name("resnet_50", "timm"), default_name("timm:resnet50d", "mmengine")
        ('cvnets_resnet50-for-timm.safetensors', 'resnet50d-for-mmengine.pth')
    """
    model = CVNETS_MODELS.get(canonical_name(arch))
    name = arch.rpartition(":")[2] if model is None else model.timm
    return f"{name}-for-{to}{TARGETS[to]}"


def _check_out(source: Path, out: Path, to: str) -> None:
    if out.suffix != TARGETS[to]:
        raise CheckpointError(
            f"{out}: files for {to} are of the kind {TARGETS[to]}, which it reads; name it "
            f"*{TARGETS[to]}"
        )
    if out.exists() and source.exists() and out.samefile(source):
        raise CheckpointError(f"{out} is the checkpoint itself; choose another name for the result")


def convert_state_dict(
    state: Mapping[str, torch.Tensor],
    arch: str,
    to: str = "timm",
    *,
    stock: bool = False,
    stored_indices: bool = False,
    allow_partial: bool = False,
) -> tuple[State, ConversionReport]:
    """Convert a state dict into the names, and where needed the shapes, of another library.

    Args:
        state: Tensors by name; it stays as it is.
        arch: See `convert`.
        to: One of `TARGETS`.
        stock: For timm, aim at an unmodified network of its own, where one computes the same.
        stored_indices: Swin's averaged checkpoints hold damaged position indices. False rebuilds
            them; True gives the function that the damaged ones give, as in the published
            accuracies of averaged weights.
        allow_partial: Accept a checkpoint that lacks keys of the backbone or has others besides.

    Returns:
        The converted tensors, and what became of each key.

    Raises:
        CheckpointError: Another architecture; keys missing or left over; a host without a network
            that computes the same.

    Example:
        >>> import timm
        >>> network = timm.create_model("resnet18")
        >>> state, report = convert_state_dict(network.state_dict(), "timm:resnet18", "detectron2")
        >>> state["stem.conv1.weight"].shape
        torch.Size([64, 3, 7, 7])
        >>> report.dropped[-2:]
        ['fc.weight', 'fc.bias']
    """
    if to not in TARGETS:
        raise CheckpointError(f"cannot convert to {to!r}; expected one of {', '.join(TARGETS)}")
    state = strip_prefixes(state)
    model = CVNETS_MODELS.get(canonical_name(arch))
    if model is not None:
        converted, report = from_cvnets(state, model, to, stock, stored_indices)
    elif stock or stored_indices:
        raise CheckpointError(
            f"{arch} is not one of the CVNets models, which alone have a stock variant and stored "
            f"indices; leave these options out"
        )
    else:
        converted, report = from_host(state, arch, to)
    report.check_complete(allow_partial)
    return converted, report


def _convention(
    report: ConversionReport,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    metadata: Mapping[str, str],
    source: Path,
) -> InputConvention:
    if report.layout == "cvnets":
        if mean is not None or std is not None:
            raise CheckpointError(
                f"{report.arch} was trained on images from 0 to 1 without mean and std; leave mean "
                f"and std out"
            )
        return cvnets_convention(CVNETS_MODELS[report.arch])
    if mean is None and std is None and is_converted(metadata):
        # A file of this package knows better than the host's defaults.
        return parse_convention(check_metadata(metadata, source), source)
    return host_convention(report.layout, report.arch, mean, std)


def _metadata(report: ConversionReport) -> dict[str, str]:
    return {
        "format": "pt",  # what libraries look for, to tell whose tensors these are
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
    """Write the file whole, or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    # safetensors takes neither views nor two names for one piece of memory.
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
    # Detectron2 compares the ends of names if it is told to: its models hold the backbone under a
    # prefix, and in those of the kind C4 the last stage elsewhere.
    "detectron2": lambda state: {"model": state, "matching_heuristics": True},
}
