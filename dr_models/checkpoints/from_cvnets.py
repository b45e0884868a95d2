"""Convert CVNets checkpoints for other libraries that have the same network."""

from __future__ import annotations

from typing import Any

from dr_models.catalog import CVNETS_MODELS, FAMILIES, torchvision_part
from dr_models.checkpoints import hosts
from dr_models.cvnets.keys import Entry, State
from dr_models.cvnets.model import TAG, CVNetsModel
from dr_models.cvnets.renaming import check_architecture, classifier_keys, rename
from dr_models.cvnets.report import ConversionReport
from dr_plugins.errors import CheckpointError


def from_cvnets(
    state: State, model: CVNetsModel, to: str, stock: bool, stored_indices: bool
) -> tuple[State, ConversionReport]:
    """Convert a state dict in CVNets layout; see `convert_state_dict`.

    Raises:
        CheckpointError: The architecture differs, or the host has no equivalent network.
    """
    target, kwargs, entries, notes = _cvnets_target(model, to, stock)
    report = ConversionReport(model.name, "cvnets", to, target, kwargs, notes=notes)
    check_architecture(state, model, CVNETS_MODELS.values())
    settle = FAMILIES[model.family].settle
    if settle is not None:
        state = settle(state, stored_indices, report)
    elif stored_indices:
        raise CheckpointError(f"{model.name} stores no position indices; only Swin models do")
    converted = rename(entries, state, report)
    report.num_classes = hosts.count_classes(state, classifier_keys(entries))
    expected = _expected(report)
    if expected is not None:
        hosts.check_shapes(converted, expected, report.model)
        report.checked = f"{to}'s {report.model}"
        whole = report.num_classes and not report.missing
        lacking = [key for key in expected if key not in converted]
        assert not (whole and lacking), f"{model.name}'s key map lacks {lacking}"
    return converted, report


def _cvnets_target(
    model: CVNetsModel, to: str, stock: bool
) -> tuple[str, dict[str, Any], list[Entry], list[str]]:
    """Return name and arguments of the host's network, the key map, and notes."""
    if to == "timm" and stock:
        if model.stock is None:
            raise CheckpointError(
                f"timm has no unmodified network equivalent to {model.name}; convert without "
                f"`stock`, to dr_models' {model.timm}"
            )
        name, kwargs = model.stock
        note = (
            f"timm normalizes the input of {name} with ImageNet's mean and std by default; set "
            f"mean 0 and std 1 (--mean 0 0 0 --std 1 1 1), as these weights were trained"
        )
        return name, dict(kwargs), list((model.stock_entries or model.entries)()), [note]
    if stock:
        raise CheckpointError(f"only timm has stock variants, not {to}")
    if to == "timm":
        return f"{model.timm}.{TAG}", {}, list(model.entries()), []
    if to == "torchvision":
        part = torchvision_part(model)
        name, entries = part.name(model), list(part.entries(model))
        if model.name in part.unchanged:
            return name, {}, entries, []
        note = (
            f"some layers of torchvision's {name} must be replaced; "
            f"dr_models.checkpoints.torchvision_model({model.name!r}) builds the network"
        )
        return f"dr_plugins:{model.name}", {}, entries, [note]
    reason = FAMILIES[model.family].in_detectors
    raise CheckpointError(
        f"{model.name} cannot be converted to {to}: no backbone there is equivalent"
        + (f", since {reason}" if reason else "")
        + f". Convert it to timm instead (--to timm), and use the timm backbone of the {to} "
        f"extension with model {model.timm}"
    )


def _expected(report: ConversionReport) -> hosts.Shapes | None:
    if report.to == "timm":
        return hosts.timm_shapes(report.model, report.num_classes, **report.model_kwargs)
    if report.to == "torchvision":
        return hosts.cvnets_torchvision_shapes(report.arch, report.num_classes)
    return None
