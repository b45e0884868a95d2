"""What the loops in this folder share: images, model, and the checks before the first step."""

from __future__ import annotations

from pathlib import Path

import click
import timm
import torch
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from dr_plugins import KDLoss, ReinforcedDataset

OPTIONS = [
    click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path)),
    click.argument("shards"),
    click.option("--model", "name", default="resnet18", show_default=True, help="Of timm."),
    click.option("--epochs", default=3, show_default=True),
    click.option("--batch-size", default=64, show_default=True, help="Of one process."),
    click.option("--workers", default=2, show_default=True),
    click.option("--lr", default=0.05, show_default=True, help="Of SGD."),
    click.option("--out", type=click.Path(path_type=Path), default="runs/loop", show_default=True),
]


def options(function: object) -> object:
    """Add the options of all loops to a command."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


def open_run(
    root: Path, shards: str, name: str
) -> tuple[ReinforcedDataset, ImageFolder, nn.Module, KDLoss]:
    """Return what a run needs, after checking that its parts belong together.

    Args:
        root: Folder of ``train`` and ``validation``, each with a folder for each class.
        shards: The shard set of the images in ``train``.
        name: Of a model of timm.

    Returns:
        Training images, validation images, model and loss.
    """
    model = timm.create_model(name)
    config = timm.data.resolve_model_data_config(model)
    normalize = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize(config["mean"], config["std"])]
    )
    train = ReinforcedDataset(ImageFolder(root / "train"), shards, postprocess=normalize)
    contract = train.contract()
    # Resized, cropped and normalized as timm does for this model, at the size of the views.
    config["input_size"] = (3, *contract.view_size)
    held_out = ImageFolder(root / "validation", timm.data.create_transform(**config))
    model.reset_classifier(contract.num_classes)
    criterion = KDLoss(contract.temperature)
    contract.check(class_names=held_out.classes)
    return train, held_out, model, criterion
