"""How cost grows with S, k, images, classes and workers; four curves, one picture."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from benchmarks.photographs import make_photographs
from benchmarks.synthetic import make_empty_set, make_set_of
from dr_plugins import KDLoss, ReinforcedDataset, SparseTargets
from dr_plugins.policies.policy import Policy
from dr_plugins.shards.reader import ShardSet

SAMPLES, TOPKS = (1, 10, 50, 100, 400), (1, 5, 10, 20, 50)
IMAGES, CLASSES, WORKERS = (
    (1_000, 10_000, 100_000, 1_000_000),
    (10, 100, 1_000, 10_000, 100_000),
    (1, 2, 4),
)
ROUNDS, BATCH = 7, 256

Curves = Mapping[str, Mapping[int, float]]


def main(out: Path) -> None:
    """Measure, print, draw and write."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        results: dict[str, Curves] = {
            "read: us per record over S": {"S": _over_samples(Path(folder) / "samples")},
            "read: us per record over k": {"k": _over_topk(Path(folder) / "topk")},
            "read: us per record over images": {"images": _over_images(Path(folder) / "images")},
            "loss: ms per step over classes": _over_classes(),
            "loader: images/s over workers": {"workers": _over_workers(Path(folder) / "loader")},
        }
    for what, curves in results.items():
        for name, points in curves.items():
            values = "  ".join(f"{x:,}: {y:.3g}" for x, y in points.items())
            print(f"{what:<34} {name:<24} {values}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "growth.json").write_text(json.dumps(results, indent=1))
    _draw(results, out / "growth.png")


def _over_samples(folder: Path) -> dict[int, float]:
    return {
        samples: _read_time(
            make_empty_set(folder / str(samples), _policy(), images=1000, samples=samples)
        )
        for samples in SAMPLES
    }


def _over_topk(folder: Path) -> dict[int, float]:
    return {
        topk: _read_time(
            make_empty_set(folder / str(topk), _policy(), images=1000, samples=50, topk=topk)
        )
        for topk in TOPKS
    }


def _over_images(folder: Path) -> dict[int, float]:
    return {
        images: _read_time(
            make_empty_set(
                folder / str(images),
                _policy(),
                images=images,
                samples=4,
                shards=max(images // 1000, 1),
            )
        )
        for images in IMAGES
    }


def _policy() -> Policy:
    return Policy.load("randaug")


def _read_time(shards: ShardSet) -> float:
    """Microseconds per record, in batches at random, after every shard was opened."""
    rng = np.random.default_rng(0)
    for number in range(len(shards.manifest.shards)):
        shards.records(number)
    rows = rng.integers(0, len(shards), (20, BATCH))
    samples = rng.integers(0, shards.manifest.samples, (20, BATCH))

    def read() -> None:
        for batch in zip(rows, samples, strict=True):
            shards.read(*batch)

    return _median(read) / rows.size * 1e6


def _over_classes() -> Curves:
    """Forward and backward, for a batch of 256 and k = 10."""
    curves: dict[str, dict[int, float]] = {
        "labels": {},
        "KDLoss, sparse": {},
        "F.kl_div, dense": {},
    }
    for classes in CLASSES:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(BATCH, classes, generator=generator, requires_grad=True)
        top = torch.randn(BATCH, classes, generator=generator).softmax(1).topk(min(10, classes))
        targets = SparseTargets(top.indices, top.values, num_classes=classes)
        labels = top.indices[:, 0]
        steps: dict[str, Callable[[], torch.Tensor]] = {
            "labels": lambda x=logits, y=labels: F.cross_entropy(x, y),
            "KDLoss, sparse": lambda x=logits, y=targets: KDLoss()(x, y),
            "F.kl_div, dense": lambda x=logits, y=targets: F.kl_div(
                F.log_softmax(x, 1), y.dense(), reduction="batchmean"
            ),
        }
        for name, step in steps.items():
            curves[name][classes] = _median(lambda step=step: step().backward()) * 1e3
    return curves


def _over_workers(folder: Path) -> dict[int, float]:
    root = make_photographs(folder / "train", 256)
    policy = Policy.load("randaug", backend="tensor")
    dataset = ReinforcedDataset(
        ImageFolder(str(root)), make_set_of(folder / "set", root, policy, 50), p=1.0
    )
    return {workers: _throughput(dataset, workers) for workers in WORKERS}


def _throughput(dataset: ReinforcedDataset, workers: int) -> float:
    loader = DataLoader(
        dataset,
        32,
        shuffle=True,
        num_workers=workers,
        collate_fn=dataset.collate,
        persistent_workers=True,
    )
    epochs = iter(range(ROUNDS + 1))

    def epoch() -> None:
        dataset.set_epoch(next(epochs))
        for _ in loader:
            pass

    return len(dataset) / _median(epoch)


def _median(function: Callable[[], Any]) -> float:
    """Seconds, of several rounds after a warm-up."""
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _draw(results: Mapping[str, Curves], path: Path) -> None:
    figure, axes = plt.subplots(
        1, len(results), figsize=(4 * len(results), 3.2), layout="constrained"
    )
    for axis, (what, curves) in zip(axes, results.items(), strict=True):
        for name, points in curves.items():
            axis.plot(list(points), list(points.values()), marker="o", label=name)
        axis.set(title=what, xscale="log", ylim=(0, None), xlabel=what.rpartition(" ")[2])
        _tick(axis, list(points))
        if len(curves) > 1:
            axis.set(yscale="log", ylim=(None, None))
            axis.legend()
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=90)


def _tick(axis: Any, values: Sequence[int]) -> None:
    axis.set_xticks(values, [f"{value:,}" for value in values], rotation=30)
    axis.minorticks_off()
