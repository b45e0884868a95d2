"""Rename state dicts in CVNets layout, and detect their models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from dr_models.cvnets.keys import Entry, State
from dr_models.cvnets.model import CVNetsModel, Family
from dr_models.cvnets.report import ConversionReport, shorten
from dr_plugins.errors import CheckpointError

_IGNORED = "neural_augmentor."
_FIRST = ("conv_1.", "patch_emb.0.block.")


def is_cvnets(state: Mapping[str, object]) -> bool:
    """Return whether keys, without prefixes of wrappers, are in CVNets layout."""
    return any(key.startswith(_FIRST) for key in state)


def fitting(state: Mapping[str, torch.Tensor], models: Iterable[CVNetsModel]) -> list[str]:
    """Return the names of the models whose keys and widths match a state dict."""
    return [model.name for model in models if _fits(model, state)]


def _fits(model: CVNetsModel, state: Mapping[str, torch.Tensor]) -> bool:
    key, axis, size = model.width
    width = state.get(key)
    if width is None or width.ndim <= axis or width.shape[axis] != size:
        return False
    return {entry.source for entry in model.entries()} <= state.keys()


def check_architecture(state: State, model: CVNetsModel, known: Iterable[CVNetsModel]) -> None:
    """Check that a state dict may be that of a model.

    Args:
        state: In any layout.
        model: The model.
        known: Models that it may be instead.

    Raises:
        CheckpointError: The architecture or the layout differs.
    """
    if _fits(model, state):
        return
    found = fitting(state, known)
    if found:
        raise CheckpointError(
            f"the checkpoint holds {' or '.join(found)}, not {model.name}; set that architecture"
        )
    if not is_cvnets(state):
        raise CheckpointError(
            f"the checkpoint is not in CVNets layout: its keys begin with {shorten(list(state))}. "
            f"If it comes from timm or torchvision, set the architecture to timm:NAME or "
            f"torchvision:NAME"
        )
    key, axis, size = model.width
    if key in state and (state[key].ndim <= axis or state[key].shape[axis] != size):
        raise CheckpointError(
            f"{key} has shape {list(state[key].shape)}, but in {model.name} it has {size} on axis "
            f"{axis}: the architecture differs"
        )


def classifier_keys(entries: Iterable[Entry]) -> list[str]:
    """Return the classifier's keys in a checkpoint."""
    return [entry.source for entry in entries if entry.source.startswith("classifier.")]


def rename(entries: Sequence[Entry], state: State, report: ConversionReport) -> State:
    """Rename and change tensors, and report matched, missing and unexpected keys."""
    converted: State = {}
    rest = dict.fromkeys(state)
    # A backbone without classifier is complete; one with half a classifier is not.
    classifier = classifier_keys(entries)
    headless = not any(key in state for key in classifier)
    for entry in entries:
        if entry.source not in state:
            if not (headless and entry.source in classifier):
                report.missing.append(entry.source)
            continue
        rest.pop(entry.source, None)
        report.matched.append(entry.source)
        if entry.target is not None:
            value = state[entry.source]
            converted[entry.target] = _changed(entry, value)
    for key in rest:
        (report.ignored if key.startswith(_IGNORED) else report.unexpected).append(key)
    return converted


def _changed(entry: Entry, value: torch.Tensor) -> torch.Tensor:
    if entry.change is None:
        return value
    try:
        return entry.change(value)
    except (IndexError, RuntimeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{entry.source} has shape {list(value.shape)}, which no published model has"
        ) from error


def to_timm(state: State, model: CVNetsModel, family: Family) -> State:
    """Rename the tensors of a complete checkpoint for the network in `dr_models.networks`.

    Raises:
        CheckpointError: The architecture differs, or keys are missing or unexpected.
    """
    check_architecture(state, model, family.models)
    report = ConversionReport(model.name, "cvnets", "timm", model.timm)
    if family.settle is not None:
        state = family.settle(state, False, report)
    converted = rename(list(model.entries()), state, report)
    report.check_complete()
    return converted
