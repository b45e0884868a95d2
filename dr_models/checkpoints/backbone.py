"""A checkpoint as the weights of one host's backbone: found out, converted, and whole."""

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
        state: Tensors in the host's names, without prefix; for timm with the classifier, if the
            checkpoint has one, elsewhere without.
        convention: The images that the network was trained on.
        report: What became of each key of the checkpoint.

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
    """Read a checkpoint in whatever layout, and convert it exactly into a host's.

    Args:
        location: The file, with what it does not say itself; see `CheckpointLocation.parse`.
        to: One of `TARGETS`.
        arch: The network of the host, as timm calls it (``resnet50``); None takes what the
            checkpoint holds.
        options: What the host gives `timm.create_model` besides; None is not compared with what
            the checkpoint says, but for hosts' own networks, which take none.

    Raises:
        CheckpointError: The file cannot be read; its architecture is another one than `arch` or
            cannot be told; keys are missing or left over; the host has no network that computes
            the same, or builds it otherwise than it was trained.

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
            _of_converted(metadata, location, to)
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
            f"{path} has damaged metadata, without {missing[0]}; convert the checkpoint again"
        )
    return metadata


def _refuse_whole_models(state: State, location: CheckpointLocation) -> None:
    """A detector's checkpoint is for the detector, and hosts load their own themselves."""
    parts = list(dict.fromkeys(key.partition(".")[0] for key in state))
    if "backbone" in parts and {key for key in state if key.startswith("head.")} == {
        "head.fc.weight",
        "head.fc.bias",
    }:
        raise CheckpointError(
            f"{location.path} is the checkpoint of a classifier of MMPretrain. MMDetection and "
            f"MMSegmentation load it into their own network of the same type with init_cfg=dict("
            f"type='Pretrained', checkpoint={location.path!r}, prefix='backbone.'), without "
            f"{SCHEME}; for other hosts save the tensors of its backbone alone, without the prefix"
        )
    if "backbone" in parts and len(parts) > 1:
        raise CheckpointError(
            f"{location.path} is the checkpoint of a whole model ({shorten(parts)}), such as a "
            f"detector, and not of a classifier. To go on with that model, give the host the plain "
            f"path, without {SCHEME} (Detectron2: MODEL.WEIGHTS, train.init_checkpoint; MMEngine: "
            f"load_from); for a new one, name the classifier's checkpoint here"
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


def _of_converted(metadata: Mapping[str, str], location: CheckpointLocation, to: str) -> str:
    """The architecture that a file of `convert` states."""
    layout, model = metadata["layout"], metadata["model"]
    if layout not in ("timm", "torchvision") or model.startswith("dr_plugins:"):
        raise CheckpointError(
            f"{location.path} was converted to {layout} before; convert the original to {to} "
            f"(`dr-plugins convert-checkpoint --to {to}`), or name the original here"
        )
    return f"{layout}:{model}"


def _architecture(checkpoint: Checkpoint, location: CheckpointLocation, arch: str | None) -> str:
    """What `convert_state_dict` is to take the checkpoint for."""
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
    # Networks with the names and shapes of a plain ResNet may compute something else (resnetaa50):
    # who names one knows better than the tensors.
    name = next((each for each in (checkpoint.arch, arch) if each and each not in SHARED), "")
    found = None if name else find_resnet(state)
    if found is not None:
        return found if source == "auto" else f"{layout}:{found}"
    name = name or checkpoint.arch or arch or ""
    if not name:
        raise CheckpointError(
            f"the architecture of {location.path} cannot be told from its tensors "
            f"({shorten(sorted(state))}); name it (arch=NAME, as timm or torchvision calls it), "
            f"and save a part of a larger model without its prefix"
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
        f"{location.path} may be {' or '.join(found)}, whose tensors look the same; name the one "
        f"that it is (arch={found[0]})"
    )


def _unknown_cvnets(location: CheckpointLocation) -> str:
    raise CheckpointError(
        f"{location.path} is none of the CVNets models ({', '.join(CVNETS_MODELS)}); set source "
        f"to 'timm' or 'torchvision' if it is one of theirs"
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
    """Two networks may share all names and shapes, such as Swin for 224 and 384 pixels."""
    found = report.model if report.to == "timm" else report.arch
    if arch is not None and found.partition(".")[0] != arch.partition(".")[0]:
        raise CheckpointError(
            f"{location.path} holds {found}, but the backbone is {arch}; use another checkpoint, "
            f"or configure the backbone that it is for"
        )
