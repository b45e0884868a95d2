"""Making the runs that are missing, each as one JSON file; several processes may share a folder."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timm
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

import dr_plugins
from examples.evidence.cost import measure_cost
from examples.evidence.grid import Cost, Entry, Training, Transfer
from examples.evidence.tasks import prepare
from examples.evidence.training import train
from examples.evidence.transfer import pretrained_backbone, transfer
from examples.evidence.views import Stream

RUNS = Path(__file__).parents[2] / "docs" / "evidence" / "runs"


def missing(runs: Sequence[Entry], folder: Path) -> list[Entry]:
    """Return the runs that have no file yet."""
    return [run for run in runs if not (folder / f"{run.name}.json").exists()]


def make_all(runs: Sequence[Entry], folder: Path, cache: Path, jobs: int) -> None:
    """Make the runs that are missing.

    Args:
        runs: Of the grid.
        folder: Of the results. Runs that another process is making are left to it.
        cache: Of teachers' answers and shard sets, which can be made again.
        jobs: Processes, of one thread each.
    """
    pending = missing(runs, folder)
    folder.mkdir(parents=True, exist_ok=True)
    if jobs == 1:
        for run in tqdm(pending, "runs", unit="run"):
            make(run, folder, cache)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        results = [pool.submit(make, run, folder, cache) for run in pending]
        try:
            for result in tqdm(results, "runs", unit="run"):
                result.result()
        finally:
            pool.shutdown(cancel_futures=True)


def make(run: Entry, folder: Path, cache: Path) -> None:
    """Make one run with one thread, unless its file is there or another process is making it."""
    torch.set_num_threads(1)
    path = folder / f"{run.name}.json"
    try:
        with FileLock(folder / f".{run.name}.lock", timeout=0):
            if not path.exists():
                _write(path, _result(run, cache))
    except Timeout:
        return


def _result(run: Entry, cache: Path) -> dict[str, Any]:
    start, before = time.perf_counter(), os.getloadavg()[0]
    found = _measured(run, cache)
    return {
        "kind": run.kind,
        "config": asdict(run),
        **found,
        "wall_seconds": round(time.perf_counter() - start, 1),
        "load": [round(before, 2), round(os.getloadavg()[0], 2)],
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "dr_plugins": dr_plugins.__version__,
        },
    }


def _measured(run: Entry, cache: Path) -> dict[str, Any]:
    if isinstance(run, Training):
        return train(prepare(run, cache))[1]
    if isinstance(run, Cost):
        return _cost(run, cache)
    if not isinstance(run, Transfer):
        raise TypeError(f"runs of kind {run.kind} cannot be made; expected a kind of `Entry`")
    weights = pretrained_backbone(run.pretrained, run.seed, cache)
    return transfer(run.host, weights, run.seed, cache)


def _cost(run: Cost, cache: Path) -> dict[str, Any]:
    task = prepare(Training(run.model, run.images, "reinforced", 1, run.seed), cache)
    stream = Stream(task.source, run.seed)
    # Asked anew each time: what an online teacher costs.
    return measure_cost(replace(task, answers=lambda epoch: task.teacher(stream.views(epoch))))


def _write(path: Path, result: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(result, separators=(",", ":")) + "\n")
    os.replace(part, path)
