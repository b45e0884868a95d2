"""Rename state dicts in CVNets layout, and detect their models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from dr_models.cvnets.catalog import CVNETS_MODELS, CVNetsModel
from dr_models.cvnets.keys import Entry, State
from dr_models.cvnets.report import ConversionReport, shorten
from dr_models.cvnets.swin import damaged_indices, with_stored_indices
from dr_plugins.errors import CheckpointError

TAG = "dr_in1k_plus"
"""timm's tag of the models in `dr_models`, which were trained on ImageNet+."""

_IGNORED = "neural_augmentor."
_FIRST = ("conv_1.", "patch_emb.0.block.")


def is_cvnets(state: Mapping[str, object]) -> bool:
    """Return whether keys, without prefixes of wrappers, are in CVNets layout."""
    return any(key.startswith(_FIRST) for key in state)


def candidates(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the published CVNets models whose keys and widths match a state dict.

    There may be two, which then differ only in the image size.

    Example:
        >>> candidates(load_checkpoint("best.pt").state)                    # doctest: +SKIP
        ['resnet_50']
    """
    return [name for name, model in CVNETS_MODELS.items() if _fits(model, state)]


def _fits(model: CVNetsModel, state: Mapping[str, torch.Tensor]) -> bool:
    key, axis, size = model.width
    width = state.get(key)
    if width is None or width.ndim <= axis or width.shape[axis] != size:
        return False
    return {entry.source for entry in model.entries()} <= state.keys()


def check_architecture(state: State, model: CVNetsModel) -> None:
    """Check that a state dict may be that of a model.

    Raises:
        CheckpointError: The architecture or the layout differs.
    """
    if _fits(model, state):
        return
    found = candidates(state)
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


def settle_indices(state: State, stored: bool, report: ConversionReport) -> State:
    """Note Swin's damaged position indices; if `stored`, preserve their function."""
    damaged = damaged_indices(state)
    if damaged:
        entries = max(damaged.values())
        report.notes.append(
            f"{len(damaged)} relative_position_index buffers are damaged by averaging (up to "
            f"{entries} of their entries); "
            + (
                "the tables were rewritten to compute the same as with the damaged indices"
                if stored
                else "they are rebuilt, see `stored_indices` for the published behavior"
            )
        )
    return with_stored_indices(state) if stored else state


def rename(
    entries: Iterable[Entry], state: State, report: ConversionReport, classifier: list[str]
) -> State:
    """Rename and change tensors, and report matched, missing and unexpected keys."""
    converted: State = {}
    rest = dict.fromkeys(state)
    # A backbone without classifier is complete; one with half a classifier is not.
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


def to_timm(state: State, model: CVNetsModel) -> State:
    """Rename the tensors of a complete checkpoint for the network in `dr_models.networks`.

    Raises:
        CheckpointError: The architecture differs, or keys are missing or unexpected.
    """
    check_architecture(state, model)
    report = ConversionReport(model.name, "cvnets", "timm", model.timm)
    entries = list(model.entries())
    classifier = [entry.source for entry in entries if entry.source.startswith(model.classifier)]
    if model.family == "swin":
        state = settle_indices(state, False, report)
    converted = rename(entries, state, report, classifier)
    report.check_complete()
    return converted
