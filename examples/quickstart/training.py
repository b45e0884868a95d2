"""One training through timm's factories; plain and reinforced differ in the dataset's name."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import timm.optim
import timm.scheduler
import timm.utils
import torch
from tqdm import tqdm

import timm_ext
from dr_plugins import expected_calibration_error
from examples.quickstart.models import FASHION_MEAN, FASHION_STD

_EVALUATIONS = 6  # over a run, for the picture


@dataclass(frozen=True)
class Recipe:
    """What both trainings share.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step.
        lr: Peak learning rate of SGD with Nesterov momentum 0.9; cosine to zero.
        weight_decay: Of SGD.
        model: timm model name.
    """

    epochs: int
    batch_size: int = 64
    lr: float = 0.1
    weight_decay: float = 5e-4
    model: str = "fashion_resnet_student"


@dataclass
class Run:
    """What one training gave.

    Attributes:
        name: ``"plain"`` or ``"reinforced"``.
        seed: Of weights, order and augmentation.
        seconds_per_epoch: Of a processor, for training only: the wall clock depends on what runs at
            its side. Loading, which another process does, and evaluation are not in it.
        history: (epoch, accuracy, calibration error), both within ``[0, 1]``.
    """

    name: str
    seed: int
    seconds_per_epoch: float = 0.0
    history: list[tuple[int, float, float]] = field(default_factory=list)


def train(name: str, dataset: str, root: Path, recipe: Recipe, seed: int, line: int = 0) -> Run:
    """Train a student and evaluate it on the validation folder.

    Args:
        name: Of the run.
        dataset: timm dataset name: ``""`` for the plain image folder, ``"reinforced?..."``.
        root: Directory of ``train`` and ``validation``.
        recipe: How to train.
        seed: Of everything random.
        line: Of the progress bar, where several trainings share a terminal.
    """
    timm.utils.random_seed(seed)
    model = timm.create_model(recipe.model).to(memory_format=torch.channels_last)
    loader, validation = _loaders(dataset, root, recipe, seed)
    criterion = timm_ext.create_loss()
    optimizer = timm.optim.create_optimizer_v2(
        model, "sgd", lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    schedule, _ = timm.scheduler.create_scheduler_v2(
        optimizer,
        "cosine",
        num_epochs=recipe.epochs,
        warmup_epochs=1,
        warmup_lr=recipe.lr / 10,
        step_on_epochs=False,
        updates_per_epoch=len(loader),
    )
    run, seconds, updates = Run(name, seed), 0.0, 0
    title = f"{name:<10}, seed {seed}"
    for epoch in tqdm(range(recipe.epochs), title, unit="epoch", position=line):
        start = time.process_time()
        if hasattr(loader.dataset, "set_epoch"):
            loader.dataset.set_epoch(epoch)
        model.train()
        for images, targets in loader:
            images = images.contiguous(memory_format=torch.channels_last)
            loss = criterion(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            updates += 1
            schedule.step_update(updates)
        seconds += time.process_time() - start
        if (epoch + 1) % max(1, recipe.epochs // _EVALUATIONS) == 0 or epoch + 1 == recipe.epochs:
            run.history.append((epoch + 1, *_evaluate(model, validation)))
    run.seconds_per_epoch = seconds / recipe.epochs
    return run


def _loaders(dataset: str, root: Path, recipe: Recipe, seed: int) -> tuple[Any, list[Any]]:
    images = timm_ext.create_dataset(
        dataset, root=str(root), split="train", is_training=True, seed=seed
    )
    common: dict[str, Any] = {
        "input_size": (3, 28, 28),
        "mean": FASHION_MEAN,
        "std": FASHION_STD,
        "device": torch.device("cpu"),
        "num_workers": 1,
    }
    loader = timm_ext.create_loader(
        images,
        batch_size=recipe.batch_size,
        is_training=True,
        scale=(0.5, 1.0),
        color_jitter=0.0,
        interpolation="bilinear",
        **common,
    )
    held_out = timm_ext.create_dataset(dataset, root=str(root), split="validation")
    test = timm_ext.create_loader(held_out, batch_size=500, crop_pct=1.0, **common)
    # The test images are few and small: decoded once, evaluated often.
    return loader, [(x.contiguous(memory_format=torch.channels_last), y) for x, y in test]


@torch.inference_mode()
def _evaluate(model: torch.nn.Module, batches: list[Any]) -> tuple[float, float]:
    model.eval()
    probs = torch.cat([model(images).softmax(-1) for images, _ in batches])
    labels = torch.cat([targets for _, targets in batches])
    accuracy = (probs.argmax(-1) == labels).float().mean().item()
    return accuracy, expected_calibration_error(probs, labels)
