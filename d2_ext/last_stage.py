"""The last stage of a network, which Detectron2's C4 models keep in their heads."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from detectron2.modeling.roi_heads import ROIHeads
from torch import nn

from dr_models.checkpoints.resnets import backbone_renamer
from dr_models.cvnets.keys import is_counter
from dr_plugins.errors import BackboneError

LAST_STAGE = "res5"
"""Detectron2's name for it, in ResNets and in heads."""

State = Mapping[str, torch.Tensor]
Renamer = Callable[[str], str | None]

_SIZE, _TOLERANCE = 8, 1e-4


def find_last_stages(model: nn.Module, backbones: Collection[str]) -> dict[str, str]:
    """Find last stages in heads, and the backbone of each.

    Args:
        model: The whole model.
        backbones: Names of the backbones in it.

    Returns:
        Names of backbones by names of stages. If there are several backbones, such as a student's
        and a teacher's, the one that shares the longest prefix with the stage.
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, ROIHeads) and hasattr(module, LAST_STAGE):
            owner = max(backbones, key=lambda each: _shared(each, name))
            found[f"{name}.{LAST_STAGE}".lstrip(".")] = owner
    return found


def _shared(one: str, other: str) -> int:
    """Length of the common prefix of two dotted names, in parts."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


def timm_last_stage(
    arch: str, options: Mapping[str, Any], state: State, stage: nn.Module
) -> dict[str, torch.Tensor]:
    """Tensors of a timm network's last stage, for Detectron2's.

    Names and shapes do not show strides or pooling, so both stages are run and compared.

    Args:
        arch: timm's name of the network.
        options: Its arguments for `timm.create_model`.
        state: Its tensors.
        stage: Detectron2's stage; it is not changed.

    Raises:
        BackboneError: The stages have different tensors, or compute different features.
    """
    _, _, rename = backbone_renamer("resnet50", "detectron2")  # all ResNets have the same names
    renamed = {rename(key): value for key, value in state.items()}
    prefix = f"{LAST_STAGE}."
    found = {
        key.removeprefix(prefix): value
        for key, value in renamed.items()
        if key is not None and key.startswith(prefix)
    }
    own = {key: value for key, value in stage.state_dict().items() if not is_counter(key)}
    wrong = [
        key
        for key in {**own, **found}
        if key not in own or key not in found or own[key].shape != found[key].shape
    ]
    if wrong:
        raise BackboneError(
            f"the last stage of {arch} has other tensors than Detectron2's ({wrong[0]})"
        )
    if not _computes_the_same(copy.deepcopy(stage), _last_stage(arch, options), rename):
        raise BackboneError(
            f"the last stage of {arch} computes something else than Detectron2's with its tensors"
        )
    return found


def _last_stage(arch: str, options: Mapping[str, Any]) -> nn.Module:
    """Of the timm network as trained: not dilated."""
    import timm

    kept = {key: value for key, value in options.items() if key != "output_stride"}
    network: Any = timm.create_model(arch, **kept)
    stage: nn.Module = network.layer4
    return stage


def _computes_the_same(stage: nn.Module, reference: nn.Module, rename: Renamer) -> bool:
    """Run both with the same random tensors; a checkpoint's might zero out a branch."""
    random = torch.Generator().manual_seed(0)
    drawn = {
        key: torch.rand(value.shape, generator=random) + 0.5
        if value.ndim < 2
        else torch.randn(value.shape, generator=random) / value[0].numel() ** 0.5
        for key, value in reference.state_dict().items()
        if not is_counter(key)
    }
    renamed = {(rename(f".{key}") or "")[1:]: value for key, value in drawn.items()}
    stage.load_state_dict(renamed, strict=False)
    reference.load_state_dict(drawn, strict=False)
    images = torch.rand(1, next(reference.parameters()).shape[1], _SIZE, _SIZE, generator=random)
    with torch.inference_mode():
        found = stage.cpu().float().eval()(images)
        expected = reference.float().eval()(images)
    tolerance = _TOLERANCE * float(expected.abs().max())
    return found.shape == expected.shape and torch.allclose(found, expected, 0, tolerance)
