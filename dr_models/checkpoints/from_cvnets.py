"""CVNets' checkpoints in the names of other libraries, where these have the same network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from dr_models.checkpoints import hosts
from dr_models.checkpoints.cvnets.catalog import CVNetsModel
from dr_models.checkpoints.cvnets.swin import damaged_indices, with_stored_indices
from dr_models.checkpoints.cvnets.torchvision_names import torchvision_target
from dr_models.checkpoints.detect import candidates, is_cvnets
from dr_models.checkpoints.keys import Entry, State
from dr_models.checkpoints.report import ConversionReport, shorten
from dr_plugins.errors import CheckpointError

__all__ = ["TAG", "from_cvnets"]

TAG = "dr_in1k_plus"
"""Of the models in `dr_models`: trained on ImageNet+."""

_IGNORED = "neural_augmentor."


def from_cvnets(
    state: State, model: CVNetsModel, to: str, stock: bool, stored_indices: bool
) -> tuple[State, ConversionReport]:
    """Convert a state dict in CVNets layout; see `convert_state_dict`.

    Raises:
        CheckpointError: Another architecture; or a host without a network that computes the same.
    """
    target, kwargs, entries, notes = _cvnets_target(model, to, stock)
    report = ConversionReport(model.name, "cvnets", to, target, kwargs, notes=notes)
    _check_architecture(state, model)
    if model.family == "swin":
        state = _settle_indices(state, stored_indices, report)
    elif stored_indices:
        raise CheckpointError(f"{model.name} stores no position indices; only Swin models do")
    classifier = [entry.source for entry in entries if entry.source.startswith(model.classifier)]
    converted = _apply(entries, state, report, classifier)
    report.num_classes = hosts.count_classes(state, classifier)
    expected = _expected(report)
    if expected is not None:
        hosts.check_shapes(converted, expected, report.model)
        report.checked = f"{to}'s {report.model}"
        whole = report.num_classes and not report.missing
        lacking = [key for key in expected if key not in converted]
        assert not (whole and lacking), f"{model.name}'s key map forgets {lacking}"
    return converted, report


def _cvnets_target(
    model: CVNetsModel, to: str, stock: bool
) -> tuple[str, dict[str, Any], list[Entry], list[str]]:
    """Name and arguments of the host's network, the key map, and notes."""
    if to == "timm" and stock:
        if model.stock is None:
            raise CheckpointError(
                f"timm has no network of its own that computes the same as {model.name}; convert "
                f"without `stock`, to dr_models' {model.timm}"
            )
        name, kwargs = model.stock
        note = (
            f"timm feeds {name} images with ImageNet's mean and std by default; give it mean 0 and "
            f"std 1 (--mean 0 0 0 --std 1 1 1), on which these weights were trained"
        )
        return name, dict(kwargs), list((model.stock_entries or model.entries)()), [note]
    if stock:
        raise CheckpointError(f"only timm has stock variants, not {to}")
    if to == "timm":
        return f"{model.timm}.{TAG}", {}, list(model.entries()), []
    if to == "torchvision":
        name, entries = torchvision_target(model)
        if model.name == "mobilenetv2_1.0":
            return name, {}, entries, []
        note = (
            f"some layers of torchvision's {name} have to be exchanged; "
            f"dr_models.checkpoints.torchvision_model({model.name!r}) builds the network"
        )
        return f"dr_plugins:{model.name}", {}, entries, [note]
    raise CheckpointError(
        f"{model.name} cannot be converted to {to}: no backbone there computes the same"
        + (", since its stem convolves where theirs pools" if model.family == "resnet" else "")
        + f". Convert it to timm instead (--to timm), and use the timm backbone of the {to} "
        f"extension with model {model.timm}"
    )


def _check_architecture(state: State, model: CVNetsModel) -> None:
    found = candidates(state)
    if model.name in found:
        return
    if found:
        raise CheckpointError(
            f"the checkpoint is that of {' or '.join(found)}, not of {model.name}; name the "
            f"architecture that it has"
        )
    if not is_cvnets(state):
        raise CheckpointError(
            f"the checkpoint is not in CVNets layout: it begins with {shorten(list(state))}. For "
            f"one of timm or torchvision give timm:NAME or torchvision:NAME as architecture"
        )
    key, axis, size = model.width
    if key in state and (state[key].ndim <= axis or state[key].shape[axis] != size):
        raise CheckpointError(
            f"{key} has shape {list(state[key].shape)}, but in {model.name} it has {size} on axis "
            f"{axis}: the checkpoint is that of another architecture"
        )


def _settle_indices(state: State, stored: bool, report: ConversionReport) -> State:
    damaged = damaged_indices(state)
    if damaged:
        entries = max(damaged.values())
        report.notes.append(
            f"{len(damaged)} relative_position_index buffers are damaged (up to {entries} of their "
            f"entries), as averaging leaves them; "
            + (
                "the tables were rewritten to compute the same as with them"
                if stored
                else "they are rebuilt, see `stored_indices` for the published behaviour"
            )
        )
    return with_stored_indices(state) if stored else state


def _apply(
    entries: Iterable[Entry], state: State, report: ConversionReport, classifier: list[str]
) -> State:
    """Rename and change the tensors, and note what is missing and left over."""
    converted: State = {}
    rest = dict.fromkeys(state)
    # A backbone without its classifier is whole; one with half a classifier is not.
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
            f"{entry.source} has shape {list(value.shape)}, which is not that of a published model"
        ) from error


def _expected(report: ConversionReport) -> hosts.Shapes | None:
    if report.to == "timm":
        return hosts.timm_shapes(report.model, report.num_classes, **report.model_kwargs)
    if report.to == "torchvision":
        return hosts.cvnets_torchvision_shapes(report.arch, report.num_classes)
    return None
