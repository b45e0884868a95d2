"""Views per second of generation on a GPU, against its teacher alone and ml-dr's own loop.

Every loop is timed from the first file that it writes to the last one: what starts workers, loads
weights or compiles comes once in a run of days.
"""

from __future__ import annotations

import functools
import importlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import timm
import torch
import yaml
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from benchmarks.photographs import make_photographs
from benchmarks.report import Row, report
from dr_plugins.generation import Ensemble, GenerationSettings, reinforce
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import Policy
from timm_ext.teachers import TimmTeacher

MLDR = os.environ.get("MLDR_SOURCE", "")  # a checkout of apple/ml-dr, to compare with it as well
MLDR_CONFIGS = {"rrc": "cropflip", "randaug": "randaug", "randaug_mixing": "randaug_mixing"}
HOLD, ROUNDS, CLASSES = 0.95, 2, 1000


@dataclass(frozen=True)
class Scale:
    """How much is measured: images for each teacher, views of each image, views in a batch."""

    device: str
    teachers: dict[str, int]
    mldr_images: int
    samples: int
    shard_images: int
    batch: int
    size: int
    workers: int
    compiled: bool


GPU = Scale(
    device="cuda",
    teachers={"resnet50": 384, "vit_large_patch16_224": 96},
    mldr_images=24,
    samples=64,
    shard_images=8,
    batch=256,
    size=224,
    workers=os.cpu_count() or 1,
    compiled=True,
)
# To see on a CPU whether all of it runs; its figures mean nothing.
TRIAL = Scale(
    device="cpu",
    teachers={"resnet10t": 16},
    mldr_images=8,
    samples=4,
    shard_images=2,
    batch=8,
    size=176,
    workers=0,
    compiled=False,
)


def main(out: Path) -> None:
    """Measure and report.

    ``GENERATING_TRIAL=1`` runs a tiny version of it on a CPU; ``GENERATING_TEACHERS`` names some of
    the teachers, separated by commas, where all of them would take too long.
    """
    trial = bool(os.environ.get("GENERATING_TRIAL"))
    if not trial and not torch.cuda.is_available():
        print("\nGenerating: skipped, this machine has no GPU (GENERATING_TRIAL=1 runs it small)")
        return
    scale = TRIAL if trial else GPU
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for teacher in os.environ.get("GENERATING_TEACHERS", ",".join(scale.teachers)).split(","):
            images = make_photographs(Path(folder) / teacher, scale.teachers[teacher])
            rows += _rows_of(teacher, scale, images, Path(folder))
    where = "a CPU (trial)" if trial else torch.cuda.get_device_name()
    title = (
        f"Generating: photographs of 500x375, {scale.samples} views of {scale.size}x{scale.size} "
        f"each in batches of {scale.batch}, bfloat16, {scale.workers} workers, {where}"
    )
    report(title, rows, out / "generating.json")


def _rows_of(name: str, scale: Scale, images: Path, folder: Path) -> list[Row]:
    teacher = TimmTeacher(timm.create_model(name, num_classes=CLASSES)).to(scale.device)
    eager = Ensemble([teacher], autocast=torch.bfloat16)
    compiled = Ensemble([teacher], autocast=torch.bfloat16, compiled=True)
    ours = functools.partial(_our_rate, scale, images, folder)
    alone = functools.partial(_teacher_rate, scale, scale.teachers[name])
    rows = []
    for policy in MLDR_CONFIGS:
        for backend in ("pil", "tensor"):
            generate = functools.partial(ours, eager, policy, backend)
            rows.append(_row(f"{name}, {policy}, {backend}", "teacher alone", generate,
                             functools.partial(alone, eager), HOLD))  # fmt: skip
        if MLDR:
            peer = functools.partial(_mldr_rate, scale, images, folder, teacher, policy)
            rows.append(_row(f"{name}, {policy}, tensor", "ml-dr's loop", generate, peer, 0.0))
    if scale.compiled:
        generate = functools.partial(ours, compiled, "randaug", "tensor")
        peer = functools.partial(alone, compiled)
        rows.append(_row(f"{name}, randaug, compiled", "teacher alone", generate, peer, HOLD))
        both = peer, functools.partial(alone, eager)
        rows.append(_row(f"{name} alone, compiled", "not compiled", *both, 0.0))
    return rows


def _row(
    what: str, peer: str, ours: Callable[[], float], theirs: Callable[[], float], hold: float
) -> Row:
    """Measure two rates in turn, as a drift in speed then hits both; the first round warms up."""
    pairs = [(ours(), theirs()) for _ in range(ROUNDS + 1)][1:]
    mine, their = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    return Row(what, peer, "views/s", mine, their, ratio, hold)


def _our_rate(
    scale: Scale, images: Path, folder: Path, teacher: Ensemble, policy: str, backend: str
) -> float:
    settings = GenerationSettings(
        Policy.load(policy, size=scale.size, backend=backend),
        samples=scale.samples,
        batch_size=scale.batch,
        shard_images=scale.shard_images,
    )
    dataset = ImageFolder(str(images))
    dataset.classes = [
        f"class {i}" for i in range(CLASSES)
    ]  # the teacher's, not those of ten folders
    source = ImageSource(dataset)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        reinforce(
            source, teacher, out, settings, device=scale.device, workers=scale.workers,
            min_agreement=0,
        )  # fmt: skip
        return _rate_of_files(Path(out), "shard-*", scale.shard_images * scale.samples)


def _rate_of_files(folder: Path, pattern: str, views: int) -> float:
    """Views per second where each of the files that match holds so many."""
    times = sorted(path.stat().st_mtime_ns for path in folder.glob(pattern))
    return (len(times) - 1) * views / (times[-1] - times[0]) * 1e9


def _teacher_rate(scale: Scale, images: int, teacher: Ensemble) -> float:
    answer = teacher.answerer(scale.batch)
    shape = (scale.batch, 3, scale.size, scale.size)
    views = torch.randint(0, 256, shape, dtype=torch.uint8, device=scale.device)
    batches = images * scale.samples // scale.batch
    wait = torch.cuda.synchronize if scale.device == "cuda" else lambda: None
    answer(views)
    wait()
    start = time.perf_counter()
    for _ in range(batches):
        answer(views)
    wait()
    return batches * scale.batch / (time.perf_counter() - start)


def _mldr_rate(
    scale: Scale, images: Path, folder: Path, teacher: TimmTeacher, policy: str
) -> float:
    """ml-dr's own loop with the same network, in the same precision, on batches of that size."""
    module = _mldr_module()
    path = Path(MLDR, f"configs/imagenet/reinforce/{MLDR_CONFIGS[policy]}.yaml")
    config = yaml.safe_load(path.read_text())["parameters"]
    config["gpu"] = 0 if scale.device == "cuda" else None
    config["print_freq"] = 1 << 30
    config["reinforce"]["num_samples"] = scale.samples
    config["reinforce"]["image_augmentation"]["random_resized_crop"]["size"] = scale.size
    with tempfile.TemporaryDirectory(dir=folder) as out:
        module.os = _files_in(out)  # it writes to a fixed directory
        module.reinforce(_mldr_loader(module, scale, images, config), _mldr_model(teacher), config)
        return _rate_of_batches(Path(out), scale)


def _rate_of_batches(folder: Path, scale: Scale) -> float:
    """ml-dr writes the files of a batch sequentially, after the teacher's predictions."""
    times = sorted(path.stat().st_mtime_ns for path in folder.iterdir())
    each = scale.batch // scale.samples
    ends = times[each - 1 :: each]
    return (len(ends) - 1) * scale.batch / (ends[-1] - ends[0]) * 1e9


@functools.cache
def _mldr_module() -> Any:
    sys.path.append(MLDR)
    # `internal` is not published, and `models` does not parse; the loop needs neither.
    for name in ("internal", "internal.hooks", "internal.data", "models"):
        sys.modules[name] = ModuleType(name)
    sys.modules["models"].load_model = None  # type: ignore[attr-defined]
    return importlib.import_module("reinforce")


def _files_in(folder: str) -> Any:
    def join(_: str, *names: str) -> str:
        return os.path.join(folder, *names)

    paths = SimpleNamespace(join=join, exists=os.path.exists)
    return SimpleNamespace(path=paths, makedirs=lambda *args, **kwargs: None)


def _mldr_loader(module: Any, scale: Scale, images: Path, config: Any) -> DataLoader[Any]:
    augmentation = config["reinforce"]["image_augmentation"]
    crops = module.T_dr.compose_from_config(module.T_dr.before_collate_config(augmentation))
    dataset = ImageFolder(str(images))
    dataset.samples = dataset.samples[: scale.mldr_images]
    with_crops = module.DatasetWithParameters(dataset, crops, scale.samples)
    return DataLoader(
        module.IndexedDataset(with_crops),
        scale.batch // scale.samples,
        num_workers=scale.workers,
        pin_memory=scale.device == "cuda",
    )


def _mldr_model(teacher: TimmTeacher) -> Callable[..., torch.Tensor]:
    def model(images: torch.Tensor, return_prob: bool) -> torch.Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            logits = teacher.model(images.contiguous(memory_format=teacher.memory_format))
        return logits.float().softmax(-1)

    return model
