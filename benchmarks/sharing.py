"""Making one set in several processes: the rate of N processes against N times that of one.

The teacher sleeps, as a process whose GPU computes does, so that N may exceed the cores: what is
measured is what sharing itself costs. Loading images and making views take little time here.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.report import Row, report
from dr_plugins.generation.generate import GenerationSettings, reinforce
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import Policy

_PROCESSES = (1, 2, 4, 8)
_SHARDS_EACH, _SHARD_IMAGES, _SAMPLES = 12, 8, 4
_SECONDS = 1.0  # of the teacher for one batch, which is one shard


class Sleeping(nn.Module):
    """Answers after a pause, as if a GPU computed."""

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        if len(views) > 1:
            time.sleep(_SECONDS)
        return torch.zeros(len(views), 10)


def _make(out: Path, images: int, start: Any, ended: Any) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    pixels = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(64)]
    source = ImageSource(
        [(pixels[i % 64], 0) for i in range(images)], keys=[f"{i:06d}" for i in range(images)]
    )
    settings = GenerationSettings(
        Policy.load("cifar", size=32),
        samples=_SAMPLES,
        topk=5,
        batch_size=_SAMPLES * _SHARD_IMAGES,
        shard_images=_SHARD_IMAGES,
    )
    start.wait()
    reinforce(source, Ensemble([Sleeping()]), out, settings, check_images=None, min_agreement=0)
    ended.put(time.perf_counter())


def _rate(processes: int) -> float:
    """Shards per second of a set with as many shards for each process."""
    context = multiprocessing.get_context("fork")
    shards = processes * _SHARDS_EACH
    with tempfile.TemporaryDirectory() as directory:
        start, ended = context.Barrier(processes + 1), context.Queue()
        arguments = (Path(directory) / "set", shards * _SHARD_IMAGES, start, ended)
        running = [context.Process(target=_make, args=arguments) for _ in range(processes)]
        for process in running:
            process.start()
        start.wait()
        begun = time.perf_counter()
        last = max(ended.get() for _ in running)
        for process in running:
            process.join()
    return shards / (last - begun)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    rates = {processes: _rate(processes) for processes in _PROCESSES}
    rows = [
        Row(
            f"{processes} processes",
            f"{processes} x one process",
            "shards/s",
            rate,
            processes * rates[1],
            rate / (processes * rates[1]),
            0.95,
        )
        for processes, rate in rates.items()
    ]
    report("One set made by several processes, teacher asleep", rows, out / "sharing.json")
