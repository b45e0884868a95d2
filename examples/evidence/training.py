"""One training loop for all methods, and what is measured of its student."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dr_plugins import KDLoss, expected_calibration_error
from examples.evidence.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from examples.evidence.methods import METHODS, Task
from examples.evidence.models import BATCH, RECIPES, to_input
from examples.evidence.views import load_test

_WARMUP = 0.05
_CURVE = 4  # measurements over a run


class Stepper:
    """A student with its optimiser; it learns one epoch at a time.

    Args:
        model: Of `RECIPES`.
        images: Training images.
        epochs: Of the whole training.
        seed: Of weights and order.
        temperature: Of the targets.
    """

    def __init__(
        self, model: str, images: int, epochs: int, seed: int, temperature: float = 1.0
    ) -> None:
        torch.manual_seed(seed)
        self.model = RECIPES[model].build().to(memory_format=torch.channels_last)
        self._optimizer = RECIPES[model].optimizer(self.model)
        self._criterion = KDLoss(temperature)
        steps = epochs * math.ceil(images / BATCH)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: _warmed_up_cosine((step + 1) / (steps + 1))
        )

    def learn(self, views: Tensor, targets: Any) -> None:
        """Train on all images of an epoch, in random order."""
        self.model.train()
        for batch in torch.randperm(len(views)).split(BATCH):
            loss = self._criterion(self.model(to_input(views[batch])), targets[batch])
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            self._schedule.step()


def _warmed_up_cosine(progress: float) -> float:
    if progress < _WARMUP:
        return progress / _WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress - _WARMUP) / (1 - _WARMUP)))


def train(task: Task) -> tuple[nn.Module, dict[str, Any]]:
    """Train a student.

    Returns:
        The student, and its result as plain data: ``curve`` (epoch, accuracy and ECE on 2,000 test
        images), ``test`` (see `measure`, on all test images), ``corrupted`` (accuracies and ECEs at
        each severity, on 500 test images), and the processor's seconds of training alone.
    """
    run, seconds, curve = task.run, 0.0, []
    student = Stepper(run.model, run.images, run.epochs, run.seed, run.temperature)
    few, all_images = load_test(200), load_test()
    epochs = METHODS[run.method](task)
    for epoch in range(1, run.epochs + 1):
        start = time.process_time()
        student.learn(*next(epochs))
        seconds += time.process_time() - start
        if epoch * _CURVE // run.epochs > (epoch - 1) * _CURVE // run.epochs:
            found = measure(student.model, *few)
            curve.append([epoch, found["accuracy"], found["ece"]])
    return student.model, {
        "curve": curve,
        "test": measure(student.model, *all_images),
        "corrupted": _measure_corrupted(student.model),
        "train_cpu_seconds": round(seconds, 2),
    }


@torch.inference_mode()
def measure(model: nn.Module, pixels: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy, ECE (15 bins) and NLL in nats of a model on uint8 images."""
    model.eval()
    logits = torch.cat([model(to_input(batch)) for batch in pixels.split(500)])
    probs = logits.softmax(-1)
    found = {
        "accuracy": (logits.argmax(-1) == labels).double().mean().item(),
        "ece": expected_calibration_error(probs, labels),
        "nll": F.cross_entropy(logits, labels).item(),
    }
    return {name: round(value, 5) for name, value in found.items()}


def _measure_corrupted(model: nn.Module) -> dict[str, dict[str, list[float]]]:
    pixels, labels = load_test(50)
    result = {}
    for name in CORRUPTIONS:
        found = [measure(model, corrupt(pixels, name, s), labels) for s in SEVERITIES]
        result[name] = {what: [each[what] for each in found] for what in ("accuracy", "ece")}
    return result
