"""Detect the architecture of a checkpoint, from its keys and from what it states."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dr_models.catalog import CVNETS_MODELS, candidates, canonical_name
from dr_models.checkpoints import hosts
from dr_models.checkpoints.load import Checkpoint
from dr_models.checkpoints.location import SCHEME, CheckpointLocation
from dr_models.checkpoints.network_name import cvnets_name
from dr_models.checkpoints.resnets import SHARED
from dr_models.cvnets.keys import State, is_counter
from dr_models.cvnets.renaming import is_cvnets
from dr_models.cvnets.report import shorten
from dr_plugins.errors import CheckpointError


def is_plain_resnet(state: Mapping[str, object]) -> bool:
    """Return whether the keys are those of timm's and torchvision's ResNets."""
    return {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"} <= state.keys()


def find_resnet(state: Mapping[str, torch.Tensor]) -> str | None:
    """Return the ResNet of timm and torchvision that has these names and shapes.

    The classifier may have any number of classes or be missing. None if no ResNet matches, also for
    damaged and incomplete checkpoints.
    """
    if not is_plain_resnet(state):
        return None
    found = _body(state)
    for name in sorted(SHARED):
        if _body(hosts.torchvision_shapes(name, 1000)) == found:
            return name
    return None


def _body(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {
        key: value.shape
        for key, value in state.items()
        if not key.startswith("fc.") and not is_counter(key)
    }


def check_single_network(state: State, location: CheckpointLocation) -> None:
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


def converted_architecture(
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


def detect_architecture(
    checkpoint: Checkpoint, location: CheckpointLocation, arch: str | None
) -> str:
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
        raise CheckpointError(
            f"{location.path} is not one of the CVNets models ({', '.join(CVNETS_MODELS)}); set "
            f"source to 'timm' or 'torchvision' if it comes from there"
        )
    raise CheckpointError(
        f"{location.path} may be {' or '.join(found)}, whose tensors look the same; set the "
        f"right one (arch={found[0]})"
    )
