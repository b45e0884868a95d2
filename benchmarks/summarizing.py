"""Statistics of a set: records per second and memory, against averaging over all classes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.report import Limit, Row, compare, report
from benchmarks.synthetic import CLASSES, make_answered_set
from dr_plugins.shards.reader import ShardSet
from dr_plugins.statistics import compute_statistics

IMAGENET, VIEWS = 1_281_167, 400
IMAGES, SHARDS = 10_000, 20


def main(out: Path) -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as folder:
        few, many, one = (Path(folder, name) for name in ("few", "many", "one"))
        make_answered_set(few, images=IMAGENET, samples=4, shards=100)
        seconds, memory = _measured(few)
        make_answered_set(many, images=IMAGES, samples=VIEWS, shards=SHARDS)
        each, steady = _measured(many)
        hours = each / IMAGES * IMAGENET / 3600
        shards = make_answered_set(one, images=IMAGES // SHARDS, samples=VIEWS, shards=1)
        ours, theirs, ratio = compare(lambda: _ours(shards), lambda: _dense(shards), rounds=3)
    rows: list[Row | Limit] = [
        Limit(f"{IMAGENET:,} images, S = 4", "s", seconds, 600.0),
        Limit("the same: peak memory", "MB", memory / 1e6, 1000.0),
        Limit(f"{IMAGES:,} images, S = {VIEWS}", "s", each, 60.0),
        Limit("the same: peak memory", "MB", steady / 1e6, 1000.0),
        Limit(f"for {IMAGENET:,} images at this rate", "h", hours, 4.0),
        Row("records", "dense NumPy", "s/record", ours, theirs, ratio, 1.0),
    ]
    title = f"Statistics: {CLASSES:,} classes, top 10, one process, warm cache"
    report(title, rows, out / "summarizing.json")


_PROGRAM = """
import json, sys, time
from pathlib import Path
from dr_plugins.shards.reader import ShardSet
from dr_plugins.statistics import compute_statistics
shards = ShardSet(sys.argv[1])
start = time.perf_counter()
compute_statistics(shards)
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
print(json.dumps([time.perf_counter() - start, peak]))
"""


def _measured(folder: Path) -> tuple[float, float]:
    """Seconds, and peak memory in bytes, of a fresh process."""
    command = [sys.executable, "-c", _PROGRAM, str(folder)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, peak = json.loads(found)
    return seconds, peak


def _ours(shards: ShardSet) -> int:
    return len(compute_statistics(shards)) * VIEWS


def _dense(shards: ShardSet) -> int:
    """What one would write first: each answer expanded to all classes."""
    for records in shards.records(0):
        probs = records["probs"].astype(np.float64)
        rest = (1 - probs.sum(1)).clip(0) / (CLASSES - probs.shape[1])
        views = np.repeat(rest[:, None], CLASSES, 1)
        np.put_along_axis(views, records["ids"].astype(np.int64), probs, 1)
        mean = views.mean(0)
        (views * np.log(np.maximum(views, 1e-38) / mean)).sum(1).mean()
        np.argsort(-mean)[:5]
    return len(shards) * VIEWS
