"""All published models, and their equivalents in torchvision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

import torch
from torch import nn

from dr_models import families
from dr_models.cvnets.model import CVNetsModel, Family, Torchvision
from dr_models.cvnets.renaming import fitting
from dr_plugins.errors import CheckpointError

FAMILIES: dict[str, Family] = {
    found.name: import_module(f"{families.__name__}.{found.name}.family").FAMILY
    for found in iter_modules(families.__path__)
    if found.ispkg
}
"""The families by name: all folders of `dr_models.families`."""

CVNETS_MODELS: dict[str, CVNetsModel] = {
    model.name: model for family in FAMILIES.values() for model in family.models
}
"""The models of all families by name."""


def canonical_name(name: str) -> str:
    """Return the catalog's spelling of a name from ml-dr's tables, folders or `dr_models`.

    Example:
        >>> canonical_name("vit-384_base_E300"), canonical_name("cvnets_resnet50.dr_in1k_plus")
        ('vit_base_384', 'resnet_50')
    """
    plain = name.partition(".dr_")[0]
    for model in CVNETS_MODELS.values():
        if plain == model.timm:
            return model.name
    plain = re.sub(r"_E\d+$", "", plain)
    with_size_last = re.sub(r"^(\w+)-(\d+)_(\w+)$", r"\1_\3_\2", plain)
    return with_size_last if with_size_last in CVNETS_MODELS else plain


def candidates(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the published CVNets models whose keys and widths match a state dict.

    There may be two, which then differ only in the image size.

    Example:
        >>> candidates(load_checkpoint("best.pt").state)                    # doctest: +SKIP
        ['resnet_50']
    """
    return fitting(state, CVNETS_MODELS.values())


def torchvision_part(model: CVNetsModel) -> Torchvision:
    """Return a model's family in torchvision.

    Raises:
        CheckpointError: torchvision has no similar network.
    """
    part = FAMILIES[model.family].torchvision
    if isinstance(part, str):
        raise CheckpointError(
            f"{model.name} cannot be converted to torchvision: {part}. Convert it to timm instead "
            f"(--to timm), for dr_models' {model.timm}"
        )
    return part


def torchvision_model(arch: str, num_classes: int = 1000) -> nn.Module:
    """Build the network for files converted with ``to="torchvision"``.

    It is an instance of torchvision's class with a few layers replaced; torchvision's plain network
    cannot load these files.

    Args:
        arch: A CVNets model, such as ``resnet_50``.
        num_classes: Number of classes.

    Raises:
        CheckpointError: torchvision has no similar network.

    Example:
        >>> torchvision_model("resnet_18").maxpool[0]
        Conv2d(64, 64, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), groups=64, bias=False)
    """
    model = CVNETS_MODELS[canonical_name(arch)]
    return torchvision_part(model).build(model, num_classes)
