"""A training step on reinforced data against one on plain data, on a GPU, by timm's loaders.

The step alone shows what the loss costs; the loop shows who waits for the other.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data import create_dataset, create_loader
from torchvision.datasets import ImageFolder

import timm_ext
from benchmarks.photographs import make_photographs
from benchmarks.report import Limit, Row, compare, report
from benchmarks.synthetic import CLASSES, make_set_of
from dr_plugins import KDLoss, ReinforcedDataset
from dr_plugins.policies.policy import Policy

# Several copies of each photograph: an epoch should be much longer than what the workers
# have ready when it begins.
PHOTOGRAPHS, COPIES, SAMPLES, BATCH, STEPS = 2048, 8, 4, 256, 24
MODELS = ("resnet50", "vit_small_patch16_224")
WORKERS = os.cpu_count() or 1
HOLD = 1 / 1.01  # of the step time
Criterion = Callable[[torch.Tensor, Any], torch.Tensor]


def main(out: Path) -> None:
    """Measure and report."""
    if not torch.cuda.is_available():
        print("\nTraining on a GPU: skipped, this machine has none")
        return
    rows: list[Row | Limit] = []
    with tempfile.TemporaryDirectory() as folder:
        root = make_photographs(Path(folder) / "train", PHOTOGRAPHS)
        _copy(root, COPIES)
        shards = make_set_of(Path(folder) / "set", root, _policy(), SAMPLES)
        for name in MODELS:
            rows += _rows(name, _our_loader(root, shards), _timm_loader(root))
    title = (
        f"Training: {PHOTOGRAPHS * COPIES} images, batch {BATCH}, bfloat16, channels-last, "
        f"{WORKERS} workers, randaug, {torch.cuda.get_device_name()}"
    )
    report(title, rows, out / "training.json")


def _rows(name: str, ours: Any, theirs: Any) -> list[Row | Limit]:
    model = timm.create_model(name, num_classes=CLASSES).cuda()
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)
    trainer = _Trainer(model, optimizer)
    mine, their = next(iter(ours)), next(iter(theirs))
    step = compare(
        lambda: trainer.run(itertools.repeat(mine, STEPS), KDLoss()),
        lambda: trainer.run(itertools.repeat(their, STEPS), F.cross_entropy),
        rounds=7,
    )
    rows: list[Row | Limit] = [_row(f"{name}, step", "labels", step, HOLD)]
    loop = compare(
        lambda: trainer.run(ours, KDLoss()), lambda: trainer.run(theirs, F.cross_entropy), rounds=3
    )
    rows.append(_row(f"{name}, loop", "timm create_loader", loop, HOLD))
    for whose, loader, criterion in (("ours", ours, KDLoss()), ("timm's", theirs, F.cross_entropy)):
        share = trainer.waiting(loader, criterion)
        rows.append(Limit(f"{name}, waiting for data, {whose}", "of 1", share, float("inf")))
    return rows


def _row(what: str, peer: str, compared: tuple[float, float, float], hold: float) -> Row:
    ours, theirs, ratio = compared
    return Row(what, peer, "ms/step", ours * 1e3, theirs * 1e3, ratio, hold)


class _Trainer:
    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._model, self._optimizer = model, optimizer

    def run(self, batches: Iterable[Any], criterion: Criterion) -> int:
        count = 0
        for images, targets in batches:
            self._step(images, targets, criterion)
            count += 1
        torch.cuda.synchronize()
        return count

    def waiting(self, batches: Iterable[Any], criterion: Criterion) -> float:
        """Share of the time in which the GPU has nothing to do, as the next batch is not there."""
        iterator, waited = iter(batches), 0.0
        images, targets = next(iterator)
        begin = time.perf_counter()
        while True:
            self._step(images, targets, criterion)
            torch.cuda.synchronize()
            start = time.perf_counter()
            try:
                images, targets = next(iterator)
            except StopIteration:
                return waited / (time.perf_counter() - begin)
            torch.cuda.current_stream().synchronize()
            waited += time.perf_counter() - start

    def _step(self, images: torch.Tensor, targets: Any, criterion: Criterion) -> None:
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16):
            loss = criterion(self._model(images), targets)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()


def _copy(root: Path, copies: int) -> None:
    for path in list(root.rglob("*.JPEG")):
        for number in range(1, copies):
            os.link(path, path.with_name(f"{path.stem}_{number}.JPEG"))


def _policy() -> Policy:
    return Policy.load("randaug", backend="tensor")


def _our_loader(root: Path, shards: Path) -> Any:
    dataset = ReinforcedDataset(ImageFolder(str(root)), shards)
    return timm_ext.create_loader(dataset, **_options())


def _timm_loader(root: Path) -> Any:
    options = {**_options(), "auto_augment": "rand-m9-n2", "re_prob": 0.25}
    return create_loader(create_dataset("", root=str(root)), **options)


def _options() -> dict[str, Any]:
    return {
        "input_size": (3, 224, 224),
        "batch_size": BATCH,
        "is_training": True,
        "color_jitter": 0.0,
        "scale": (0.08, 1.0),
        "interpolation": "bilinear",
        "num_workers": WORKERS,
        "pin_memory": True,
        "device": torch.device("cuda"),
    }
