"""What the quickstart computes: the teacher's answers and the trainings, in parallel processes."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import torch
from tqdm import tqdm

import examples.quickstart.models  # noqa: F401 - registers the quickstart's models with timm
from dr_plugins import (
    Ensemble,
    GenerationSettings,
    Policy,
    load_teacher,
    open_source,
    reinforce,
)
from examples.quickstart.training import Recipe, Run, train

TEACHER = "timm:fashion_resnet_teacher"
POLICY = Path(__file__).with_name("policy.yaml")


def run_all(
    root: Path, shards: Path, samples: int, topk: int, recipe: Recipe, seeds: int
) -> list[Run]:
    """Reinforce the training images and train on them, side by side on the cores that there are.

    Each piece of work is a process with one thread and a line of progress. Students without
    reinforcement need not wait for the teacher, so no core idles while it works.

    Args:
        root: Directory of ``train`` and ``validation``.
        shards: Directory of the shard set to make.
        samples: Reinforcements per image.
        topk: Classes stored for each.
        recipe: How to train.
        seeds: Trainings of each kind.

    Returns:
        Plain and reinforced by turns.
    """
    spawn, cores = get_context("spawn"), len(os.sched_getaffinity(0))
    processes = min(cores + 1, 2 * seeds)
    pool = ProcessPoolExecutor(
        processes, spawn, initializer=_start_process, initargs=(spawn.RLock(),)
    )
    click.echo(f"the teacher answers {samples} views of each image; {2 * seeds} trainings")
    lines = iter(range(1, 2 * seeds + 1))
    try:
        teacher = pool.submit(_reinforce, root / "train", shards, samples, topk)
        plain = [
            pool.submit(train, "plain", "", root, recipe, seed, next(lines))
            for seed in range(seeds)
        ]
        teacher.result()
        dataset = f"reinforced?shards={quote(str(shards.resolve()))}"
        reinforced = [
            pool.submit(train, "reinforced", dataset, root, recipe, seed, next(lines))
            for seed in range(seeds)
        ]
        return [run.result() for pair in zip(plain, reinforced, strict=True) for run in pair]
    finally:
        pool.shutdown(cancel_futures=True)
        click.echo("\n" * (2 * seeds), err=True)  # past the lines of progress


def _start_process(lock: Any) -> None:
    tqdm.set_lock(lock)
    torch.set_num_threads(1)  # the processes share the cores


def _reinforce(images: Path, out: Path, samples: int, topk: int) -> None:
    settings = GenerationSettings(Policy.load(POLICY), samples=samples, topk=topk, batch_size=250)
    reinforce(
        open_source(str(images)),
        Ensemble([load_teacher(TEACHER)]),
        out,
        settings,
        teacher_specs=[TEACHER],
        workers=1,
        progress=True,
    )
