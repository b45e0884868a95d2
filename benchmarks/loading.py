"""Images per second of a training loader against timm's own, and ml-dr's; same photographs."""

from __future__ import annotations

import importlib
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import timm.data
import torch
import yaml
from timm.data import FastCollateMixup
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import ImageFolder

from benchmarks.photographs import make_photographs
from benchmarks.report import Row, compare, report
from benchmarks.synthetic import make_set_of, mldr_file
from dr_plugins.policies.policy import Policy
from dr_plugins.shards.reader import ShardSet
from dr_plugins.training.dataset import ReinforcedDataset

IMAGES, BATCH, SAMPLES = 256, 32, 50
MLDR = os.environ.get("MLDR_SOURCE", "")  # a checkout of apple/ml-dr, to compare with it as well
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
                for defer in (False, True):
                    ours = _our_loader(root, shards, workers, defer)
                    hold = HOLD[name] if backend == "tensor" else 0.0
                    what = f"loader, {name}, {backend}{', deferred' if defer else ''}"
                    rows.append(_compare(what, ours, peer, hold))
            if name == "randaug" and MLDR:
                peer = _mldr_loader(Path(folder) / "ml-dr", root, ShardSet(shards), workers)
                ours = _our_loader(root, shards, workers, defer=False)  # there, workers do it all
                what = f"loader, {name}, {backend}"
                rows.append(_compare(what, ours, peer, 2.0, "ml-dr's ReinforcedDataset"))
    title = (
        f"Loading: {IMAGES} photographs of 500x375 ({size / 1e3:.0f} KB), batches of {BATCH} uint8 "
        f"views of 224x224, {workers} worker(s), {os.cpu_count()} cores"
    )
    report(title, rows, out / "loading.json")


def _our_loader(root: Path, shards: Path, workers: int, defer: bool) -> DataLoader[Any]:
    """With `defer`, the prefetcher's device flips, augments, erases and mixes, as timm's erases."""
    dataset = ReinforcedDataset(ImageFolder(str(root)), shards, p=1.0, defer=defer)
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


def _mldr_loader(out: Path, root: Path, shards: ShardSet, workers: int) -> DataLoader[Any]:
    """ml-dr's dataset over the same content; it normalises and densifies in the worker."""
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # it loads pickles
    sys.path.append(MLDR)
    module = importlib.import_module("dr.data")
    out.mkdir()
    for row in range(len(shards)):
        mldr_file(out / f"{row}.pth.tar", shards, row)
    config = yaml.safe_load(Path(MLDR, "configs/imagenet/reinforce/randaug.yaml").read_text())
    torch.save(config["parameters"], out / "config.pth.tar")
    options = {"p": 1.0, "densify": "smooth"}
    dataset = module.ReinforcedDataset(ImageFolder(str(root)), [str(out)], options, 1000)
    return _loader(dataset, workers, None)


def _compare(
    what: str,
    ours: DataLoader[Any],
    peer: DataLoader[Any],
    hold: float,
    name: str = "timm create_loader",
) -> Row:
    def run(loader: DataLoader[Any]) -> int:
        return sum(len(images) for images, _ in loader)

    ours_s, theirs_s, ratio = compare(lambda: run(ours), lambda: run(peer), rounds=5)
    return Row(what, name, "img/s", 1 / ours_s, 1 / theirs_s, ratio, hold)
