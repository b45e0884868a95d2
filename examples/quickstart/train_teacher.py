"""Train the quickstart's teacher on Fashion-MNIST and save its weights as float16 safetensors.

The views are those of the quickstart's policy, random resized crops and horizontal flips, so that
the teacher is at home on what it is later asked about. The targets are one-hot labels: smoothed
labels make a teacher under-confident, and students inherit that. From the repository's root::

    python -m examples.quickstart.train_teacher --bf16
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import FashionMNIST
from torchvision.transforms import v2
from tqdm import tqdm

from dr_plugins import expected_calibration_error
from examples.quickstart.data import prepare
from examples.quickstart.models import FASHION_MEAN, FASHION_STD, TEACHER_WEIGHTS

_PATH = click.Path(path_type=Path)

TO_INPUT = [
    v2.ToImage(),
    v2.ToDtype(torch.float32, scale=True),
    v2.Normalize(FASHION_MEAN, FASHION_STD),
]


@torch.inference_mode()
def evaluate(model: nn.Module, loader: DataLoader) -> tuple[float, float]:
    """Measure ``model`` on a loader of normalised images and labels.

    Returns:
        Top-1 accuracy and expected calibration error, both in [0, 1].
    """
    model.eval()
    answers = [(model(_channels_last(images)).softmax(dim=1), labels) for images, labels in loader]
    probs, labels = (torch.cat(part) for part in zip(*answers, strict=True))
    accuracy = (probs.argmax(dim=1) == labels).double().mean().item()
    return accuracy, expected_calibration_error(probs, labels)


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _loaders(
    data: Path, batch_size: int, min_crop: float, workers: int
) -> tuple[DataLoader, DataLoader]:
    prepare(data)
    crop = v2.RandomResizedCrop(28, scale=(min_crop, 1.0))
    augment = v2.Compose([v2.Grayscale(3), crop, v2.RandomHorizontalFlip(), *TO_INPUT])
    plain = v2.Compose([v2.Grayscale(3), *TO_INPUT])
    train = FashionMNIST(data, train=True, transform=augment)
    test = FashionMNIST(data, train=False, transform=plain)
    return (
        DataLoader(train, batch_size, shuffle=True, drop_last=True, num_workers=workers),
        DataLoader(test, 500),
    )


class _Training:
    """A model with its optimiser and schedule, which are saved and restored together."""

    def __init__(self, steps: int, lr: float, weight_decay: float, bf16: bool) -> None:
        model = timm.create_model("fashion_resnet_teacher")
        self.model = model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr, momentum=0.9, weight_decay=weight_decay, nesterov=True
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, lr, total_steps=steps, pct_start=0.2
        )
        self.bf16 = bf16

    def step(self, images: Tensor, labels: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = F.cross_entropy(self.model(_channels_last(images)).float(), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()

    def save(self, path: Path, epoch: int) -> None:
        states = {name: getattr(self, name).state_dict() for name in _STATEFUL}
        _save_atomically(path, torch.save, {**states, "epoch": epoch})

    def restore(self, path: Path) -> int:
        saved = torch.load(path, weights_only=True)
        for name in _STATEFUL:
            getattr(self, name).load_state_dict(saved[name])
        return saved["epoch"]


_STATEFUL = ("model", "optimizer", "schedule")


def _save_half(model: nn.Module, path: Path) -> None:
    """Round ``model`` to float16 in place and write it: what is measured is what is shipped."""
    state = model.state_dict()
    half = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
    _save_atomically(path, save_file, {name: t.contiguous() for name, t in half.items()})
    model.load_state_dict(half)


def _save_atomically(path: Path, save: Callable[[Any, Path], None], content: Any) -> None:
    part = path.with_name(f".{path.name}.part")
    save(content, part)
    os.replace(part, path)


@click.command(context_settings={"show_default": True})
@click.option("--data", default="data", type=_PATH, help="Directory for Fashion-MNIST.")
@click.option("--out", default=TEACHER_WEIGHTS, type=_PATH, help="Weights to write.")
@click.option("--checkpoint", type=_PATH, help="Written every epoch; picked up where it exists.")
@click.option("--epochs", default=20, type=click.IntRange(1))
@click.option("--batch-size", default=128, type=click.IntRange(1))
@click.option("--lr", default=0.1, help="Peak of the one-cycle schedule.")
@click.option("--weight-decay", default=5e-4)
@click.option("--min-crop", default=0.3, help="Smallest area of a crop, as a share of the image's.")
@click.option("--bf16", is_flag=True, help="bfloat16 autocast: faster where the CPU has it.")
@click.option("--workers", default=0, type=click.IntRange(0), help="Loader processes.")
@click.option("--threads", type=click.IntRange(1), help="Threads of torch.  [default: all cores]")
@click.option("--seed", default=0)
def main(
    data: Path,
    out: Path,
    checkpoint: Path | None,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    min_crop: float,
    bf16: bool,
    workers: int,
    threads: int | None,
    seed: int,
) -> None:
    """Train ``fashion_resnet_teacher`` on the 60,000 training images; report accuracy and ECE."""
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    train, test = _loaders(data, batch_size, min_crop, workers)
    training = _Training(epochs * len(train), lr, weight_decay, bf16)
    start = training.restore(checkpoint) if checkpoint and checkpoint.exists() else 0
    for epoch in range(start, epochs):
        torch.manual_seed(seed + 1 + epoch)  # an interrupted run continues as it would have
        training.model.train()
        for images, labels in tqdm(train, desc=f"epoch {epoch + 1}/{epochs}", leave=False):
            training.step(images, labels)
        accuracy, error = evaluate(training.model, test)
        click.echo(f"epoch {epoch + 1}: test accuracy {accuracy:.2%}, ECE {error:.2%}")
        if checkpoint:
            training.save(checkpoint, epoch + 1)
    _save_half(training.model, out)
    accuracy, error = evaluate(training.model, test)
    size = out.stat().st_size
    click.echo(f"{out.name}: {size:,} bytes, test accuracy {accuracy:.2%}, ECE {error:.2%}")


if __name__ == "__main__":
    main()
