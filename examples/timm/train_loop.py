"""A custom training loop on a reinforced dataset, with timm's model, loader and validation.

python examples/timm/train_loop.py imagenet-plus --data-dir imagenet --model resnet50
"""

from __future__ import annotations

import click
import timm
import torch
from timm.utils import AverageMeter, accuracy
from torch import nn

import timm_ext


@click.command(help=__doc__)
@click.argument("dataset")
@click.option("--data-dir", required=True, help="As timm's --data-dir.")
@click.option("--model", "name", default="resnet50", show_default=True)
@click.option("--size", default=224, show_default=True, help="Input size of the model in pixels.")
@click.option("--epochs", default=10, show_default=True)
@click.option("--batch-size", default=256, show_default=True)
@click.option("--workers", default=4, show_default=True)
@click.option("--lr", default=0.1, show_default=True, help="Of SGD, decayed by a cosine.")
def main(
    dataset: str,
    data_dir: str,
    name: str,
    size: int,
    epochs: int,
    batch_size: int,
    workers: int,
    lr: float,
) -> None:
    """Train, and validate after each epoch."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train = timm_ext.create_dataset(dataset, data_dir, "train", is_training=True)
    held_out = timm_ext.create_dataset(dataset, data_dir, "validation")
    model = timm.create_model(name, num_classes=train.num_classes).to(device)

    config = {**timm.data.resolve_model_data_config(model), "input_size": (3, size, size)}
    shared = {key: config[key] for key in ("input_size", "mean", "std")}
    shared |= {"batch_size": batch_size, "num_workers": workers, "device": device}
    loader = timm_ext.create_loader(train, is_training=True, **shared)
    as_timm = {key: config[key] for key in ("crop_pct", "interpolation")}
    held_out_loader = timm_ext.create_loader(held_out, **as_timm, **shared)

    criterion = timm_ext.create_loss(train)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        train.set_epoch(epoch)
        loss = train_one_epoch(model, loader, criterion, optimizer)
        schedule.step()
        click.echo(f"epoch {epoch}  loss {loss:.3f}  top-1 {top1(model, held_out_loader):.2f}")


def train_one_epoch(
    model: nn.Module, loader: object, criterion: nn.Module, optimizer: torch.optim.Optimizer
) -> float:
    """Return the mean loss."""
    model.train()
    mean = AverageMeter()
    for images, targets in loader:
        loss = criterion(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean.update(loss.item(), len(images))
    return mean.avg


@torch.inference_mode()
def top1(model: nn.Module, loader: object) -> float:
    """Return the accuracy in percent."""
    model.eval()
    mean = AverageMeter()
    for images, labels in loader:
        mean.update(accuracy(model(images), labels)[0].item(), len(images))
    return mean.avg


if __name__ == "__main__":
    main()
