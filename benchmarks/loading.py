"""Images per second of a training loader against timm's own, same photographs and policy."""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import timm.data
import torch
from timm.data import FastCollateMixup
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import ImageFolder

from benchmarks.photographs import make_photographs
from benchmarks.report import Row, compare, report
from benchmarks.synthetic import make_set_of
from dr_plugins.dataset import ReinforcedDataset
from dr_plugins.policy import Policy

__all__ = ["main"]

IMAGES, BATCH, SAMPLES = 256, 32, 50
RAND_AUGMENT = {"auto_augment": "rand-m9-n2", "re_prob": 0.25}
TIMM_OPTIONS: dict[str, dict[str, Any]] = {
    "rrc": {"auto_augment": None, "re_prob": 0.0},
    "randaug": RAND_AUGMENT,
    # Mixes within the batch, where ours decodes the partner of each image as well.
    "randaug_mixing": {
        **RAND_AUGMENT,
        "collate_fn": FastCollateMixup(mixup_alpha=0.2, cutmix_alpha=1.0, num_classes=1000),
    },
}
HOLD = {"rrc": 1.3, "randaug": 1.5, "randaug_mixing": 0.8}  # for the faster backend


def main(out: Path, workers: int = 1) -> None:
    """Measure and report."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = make_photographs(Path(folder) / "train", IMAGES)
        size = statistics.mean(path.stat().st_size for path in root.rglob("*.JPEG"))
        for name, options in TIMM_OPTIONS.items():
            peer = _timm_loader(root, workers, options)
            for backend in ("pil", "tensor"):
                policy = Policy.load(name, backend=backend)
                shards = make_set_of(Path(folder) / f"{name}-{backend}", root, policy, SAMPLES)
                ours = _our_loader(root, shards, workers)
                hold = HOLD[name] if backend == "tensor" else 0.0
                rows.append(_compare(f"loader, {name}, {backend}", ours, peer, hold))
    title = (
        f"Loading: {IMAGES} photographs of 500x375 ({size / 1e3:.0f} KB), batches of {BATCH} uint8 "
        f"views of 224x224, {workers} worker(s), {os.cpu_count()} cores"
    )
    report(title, rows, out / "loading.json")


def _our_loader(root: Path, shards: Path, workers: int) -> DataLoader[Any]:
    dataset = ReinforcedDataset(ImageFolder(str(root)), shards, p=1.0)
    return _loader(dataset, workers, dataset.collate)


def _timm_loader(root: Path, workers: int, options: dict[str, Any]) -> DataLoader[Any]:
    dataset = timm.data.create_dataset("", root=str(root))
    # What create_loader makes for its prefetcher; erasing happens there, on the device.
    loader = timm.data.create_loader(
        dataset,
        input_size=(3, 224, 224),
        batch_size=BATCH,
        is_training=True,
        color_jitter=0.0,
        scale=(0.08, 1.0),
        num_workers=workers,
        device=torch.device("cpu"),
        interpolation="bilinear",
        **options,
    )
    return _loader(dataset, workers, loader.loader.collate_fn)


def _loader(dataset: Any, workers: int, collate: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        BATCH,
        sampler=RandomSampler(dataset),
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
    )


def _compare(what: str, ours: DataLoader[Any], peer: DataLoader[Any], hold: float) -> Row:
    def run(loader: DataLoader[Any]) -> int:
        return sum(len(images) for images, _ in loader)

    ours_s, theirs_s, ratio = compare(lambda: run(ours), lambda: run(peer), rounds=5)
    return Row(what, "timm create_loader", "img/s", 1 / ours_s, 1 / theirs_s, ratio, hold)
