"""Load a checkpoint of any layout as complete weights of a host's backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dr_models.checkpoints.convention import (
    InputConvention,
    check_metadata,
    cvnets_convention,
    is_converted,
    parse_convention,
)
from dr_models.checkpoints.convert import convert_state_dict, naming
from dr_models.checkpoints.detect import find_resnet
from dr_models.checkpoints.from_host import host_convention
from dr_models.checkpoints.load import Checkpoint, load_checkpoint
from dr_models.checkpoints.location import SCHEME, CheckpointLocation
from dr_models.checkpoints.record import check_options
from dr_models.checkpoints.recorded import check_recorded, cvnets_name
from dr_models.checkpoints.resnets import SHARED
from dr_models.cvnets.catalog import CVNETS_MODELS, canonical_name
from dr_models.cvnets.keys import State
from dr_models.cvnets.renaming import candidates, is_cvnets
from dr_models.cvnets.report import ConversionReport, shorten
from dr_plugins.errors import CheckpointError

__all__ = ["BackboneWeights", "load_backbone"]

_STATED = ("arch", "source_layout", "layout", "model")


class BackboneWeights(NamedTuple):
    """Weights for a host's backbone.

    Attributes:
        state: Tensors by the host's names, without prefix. For timm it includes the checkpoint's
            classifier, for other hosts no classifier.
        convention: The input convention that the network was trained with.
        report: What the conversion did with each key of the checkpoint.

    Example:
        >>> weights = load_backbone("best.pt", to="detectron2")             # doctest: +SKIP
        >>> weights.convention.mean, weights.report.dropped                 # doctest: +SKIP
    """

    state: State
    convention: InputConvention
    report: ConversionReport

    def __repr__(self) -> str:
        return f"BackboneWeights({self.report.arch}, {len(self.state)} tensors, {self.convention})"


def load_backbone(
    location: CheckpointLocation | str,
    *,
    to: str,
    arch: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> BackboneWeights:
    """Load a checkpoint in any supported layout, and convert it exactly to a host's layout.

    Args:
        location: The file, with options for what it does not state; see `CheckpointLocation.parse`.
        to: One of `TARGETS`.
        arch: timm's name of the host's network (``resnet50``); None accepts any.
        options: Other arguments that the host passes to `timm.create_model`, which must match the
            checkpoint's. None skips this check for timm; the hosts' own networks take no options.

    Raises:
        CheckpointError: The file cannot be read; its architecture is unknown or not `arch`; keys
            are missing or unexpected; the host has no equivalent network, or builds it with other
            arguments than the trained one.

    Example:
        >>> weights = load_backbone(                                         # doctest: +SKIP
        ...     "imagenet-plus://best.pt?source=timm", to="detectron2", arch="resnet50")
        >>> host.load_state_dict(weights.state, strict=True)                 # doctest: +SKIP
    """
    if isinstance(location, str):
        location = CheckpointLocation.parse(location)
    checkpoint = load_checkpoint(location.file, location.averaged)
    _refuse_whole_models(checkpoint.state, location)
    metadata: Mapping[str, str] = {}
    if is_converted(checkpoint.metadata):
        metadata = _checked(checkpoint.metadata, location.path)
    if metadata.get("layout") == to and to not in ("timm", "torchvision"):
        weights = _already_converted(checkpoint, metadata, location)
    else:
        specification = (
            _converted_architecture(metadata, location, to)
            if metadata
            else _architecture(checkpoint, location, arch)
        )
        check_recorded(checkpoint.arch, location.arch or specification, location.path)
        with naming(location.path):
            state, report = convert_state_dict(
                checkpoint.state, specification, to, stored_indices=location.stored_indices
            )
        report.weights = checkpoint.weights
        weights = BackboneWeights(state, _convention(report, metadata, location.path), report)
    _check_arch(weights.report, arch, location)
    if checkpoint.record is not None and (options is not None or to != "timm"):
        check_options(checkpoint.record, options or {}, location.path)
    return weights


def _checked(metadata: Mapping[str, str], path: str) -> Mapping[str, str]:
    missing = [name for name in _STATED if name not in check_metadata(metadata, path)]
    if missing:
        raise CheckpointError(
            f"{path} has damaged metadata: {missing[0]} is missing. Convert the checkpoint again"
        )
    return metadata


def _refuse_whole_models(state: State, location: CheckpointLocation) -> None:
    """Raise for checkpoints of whole detectors and of MMPretrain, which hosts load themselves."""
    parts = list(dict.fromkeys(key.partition(".")[0] for key in state))
    if "backbone" in parts and {key for key in state if key.startswith("head.")} == {
        "head.fc.weight",
        "head.fc.bias",
    }:
        raise CheckpointError(
            f"{location.path} is the checkpoint of a classifier of MMPretrain. MMDetection and "
            f"MMSegmentation load it into their own network of the same type with init_cfg=dict("
            f"type='Pretrained', checkpoint={location.path!r}, prefix='backbone.'), without "
            f"{SCHEME}; for other hosts save only the tensors of its backbone, without the prefix"
        )
    if "backbone" in parts and len(parts) > 1:
        raise CheckpointError(
            f"{location.path} is the checkpoint of a whole model ({shorten(parts)}), such as a "
            f"detector, not of a classifier. To resume that model, set the plain path in the host, "
            f"without {SCHEME} (Detectron2: MODEL.WEIGHTS, train.init_checkpoint; MMEngine: "
            f"load_from); for a new model, set the classifier's checkpoint here"
        )


def _already_converted(
    checkpoint: Checkpoint, metadata: Mapping[str, str], location: CheckpointLocation
) -> BackboneWeights:
    check_recorded(checkpoint.arch, location.arch or checkpoint.arch, location.path)
    report = ConversionReport(
        metadata["arch"],
        metadata["source_layout"],
        metadata["layout"],
        metadata["model"],
        matched=list(checkpoint.state),
    )
    return BackboneWeights(checkpoint.state, parse_convention(metadata, location.path), report)


def _converted_architecture(
    metadata: Mapping[str, str], location: CheckpointLocation, to: str
) -> str:
    """Return the architecture that a converted file states."""
    layout, model = metadata["layout"], metadata["model"]
    if layout not in ("timm", "torchvision") or model.startswith("dr_plugins:"):
        raise CheckpointError(
            f"{location.path} was already converted to {layout}; convert the original to {to} "
            f"(`dr-plugins convert-checkpoint --to {to}`), or use the original here"
        )
    return f"{layout}:{model}"


def _architecture(checkpoint: Checkpoint, location: CheckpointLocation, arch: str | None) -> str:
    """Return the checkpoint's architecture, as `convert_state_dict` expects it."""
    state, source = checkpoint.state, location.source
    if source == "cvnets" or (source == "auto" and is_cvnets(state)):
        if location.arch:
            return cvnets_name(location.arch)
        return _cvnets_architecture(state, location, arch)
    if is_cvnets(state):
        raise CheckpointError(
            f"source is {source!r}, but {location.path} is in CVNets layout; set source to "
            f"'cvnets' or 'auto'"
        )
    layout = "timm" if source == "auto" else source
    if location.arch:
        return location.arch if ":" in location.arch else f"{layout}:{location.arch}"
    # Networks with the names and shapes of a plain ResNet may compute something else (resnetaa50),
    # so an explicit name takes precedence over the tensors.
    name = next((each for each in (checkpoint.arch, arch) if each and each not in SHARED), "")
    found = None if name else find_resnet(state)
    if found is not None:
        return found if source == "auto" else f"{layout}:{found}"
    name = name or checkpoint.arch or arch or ""
    if not name:
        raise CheckpointError(
            f"cannot detect the architecture of {location.path} from its tensors "
            f"({shorten(sorted(state))}); set arch=NAME (timm's or torchvision's name). Save a "
            f"part of a larger model without its prefix"
        )
    return f"{layout}:{name}"


def _cvnets_architecture(state: State, location: CheckpointLocation, arch: str | None) -> str:
    found = candidates(state)
    wanted = None if arch is None else canonical_name(arch)
    if wanted in found:
        return wanted
    if len(found) == 1:
        return found[0]
    if not found:
        return _unknown_cvnets(location)
    raise CheckpointError(
        f"{location.path} may be {' or '.join(found)}, whose tensors look the same; set the "
        f"right one (arch={found[0]})"
    )


def _unknown_cvnets(location: CheckpointLocation) -> str:
    raise CheckpointError(
        f"{location.path} is not one of the CVNets models ({', '.join(CVNETS_MODELS)}); set "
        f"source to 'timm' or 'torchvision' if it comes from there"
    )


def _convention(
    report: ConversionReport, metadata: Mapping[str, str], path: str
) -> InputConvention:
    if metadata:
        return parse_convention(metadata, path)
    if report.layout == "cvnets":
        return cvnets_convention(CVNETS_MODELS[report.arch])
    return host_convention(report.layout, report.arch, None, None)


def _check_arch(report: ConversionReport, arch: str | None, location: CheckpointLocation) -> None:
    """Raise for another architecture, which may have the same tensors (Swin for 224 and 384)."""
    found = report.model if report.to == "timm" else report.arch
    if arch is not None and found.partition(".")[0] != arch.partition(".")[0]:
        raise CheckpointError(
            f"{location.path} holds {found}, but the backbone is {arch}; use another checkpoint, "
            f"or configure the matching backbone"
        )
