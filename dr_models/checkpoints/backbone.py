"""Load a checkpoint of any layout as complete weights of a host's backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dr_models.checkpoints.convention import check_metadata, is_converted, parse_convention
from dr_models.checkpoints.convert import convert_tensors, input_convention, naming
from dr_models.checkpoints.detect import (
    check_single_network,
    converted_architecture,
    detect_architecture,
)
from dr_models.checkpoints.load import Checkpoint, load_checkpoint
from dr_models.checkpoints.location import CheckpointLocation
from dr_models.checkpoints.network_name import check_stated_name
from dr_models.checkpoints.network_record import check_options
from dr_models.cvnets.inputs import InputConvention
from dr_models.cvnets.keys import State
from dr_models.cvnets.report import ConversionReport
from dr_plugins.errors import CheckpointError

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
    whole: bool = False,
) -> BackboneWeights:
    """Load a checkpoint in any supported layout, and convert it exactly to a host's layout.

    Args:
        location: The file, with options for what it does not state; see `CheckpointLocation.parse`.
        to: One of `TARGETS`.
        arch: timm's name of the host's network (``resnet50``); None accepts any.
        options: Other arguments that the host passes to `timm.create_model`, which must match the
            checkpoint's. None skips this check for timm; the hosts' own networks take no options.
        whole: The host also uses the classifier, so that its pooling must match too.

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
    check_single_network(checkpoint.state, location)
    metadata: Mapping[str, str] = {}
    if is_converted(checkpoint.metadata):
        metadata = _checked(checkpoint.metadata, location.path)
    if metadata.get("layout") == to and to not in ("timm", "torchvision"):
        weights = _already_converted(checkpoint, metadata, location)
    else:
        specification = (
            converted_architecture(metadata, location, to)
            if metadata
            else detect_architecture(checkpoint, location, arch)
        )
        check_stated_name(checkpoint.arch, location.arch or specification, location.path)
        with naming(location.path):
            state, report = convert_tensors(
                checkpoint.state, specification, to, stored_indices=location.stored_indices
            )
        report.weights = checkpoint.weights
        convention = input_convention(report, checkpoint, location.path)
        weights = BackboneWeights(state, convention, report)
    _check_arch(weights.report, arch, location)
    if checkpoint.record is not None and (options is not None or to != "timm"):
        check_options(checkpoint.record, options or {}, location.path, whole=whole)
    return weights


def _checked(metadata: Mapping[str, str], path: str) -> Mapping[str, str]:
    missing = [name for name in _STATED if name not in check_metadata(metadata, path)]
    if missing:
        raise CheckpointError(
            f"{path} has damaged metadata: {missing[0]} is missing. Convert the checkpoint again"
        )
    return metadata


def _already_converted(
    checkpoint: Checkpoint, metadata: Mapping[str, str], location: CheckpointLocation
) -> BackboneWeights:
    check_stated_name(checkpoint.arch, location.arch or checkpoint.arch, location.path)
    report = ConversionReport(
        metadata["arch"],
        metadata["source_layout"],
        metadata["layout"],
        metadata["model"],
        matched=list(checkpoint.state),
    )
    return BackboneWeights(checkpoint.state, parse_convention(metadata, location.path), report)


def _check_arch(report: ConversionReport, arch: str | None, location: CheckpointLocation) -> None:
    """Raise for another architecture, which may have the same tensors (Swin for 224 and 384)."""
    found = report.model if report.to == "timm" else report.arch
    if arch is not None and found.partition(".")[0] != arch.partition(".")[0]:
        raise CheckpointError(
            f"{location.path} holds {found}, but the backbone is {arch}; use another checkpoint, "
            f"or configure the matching backbone"
        )
