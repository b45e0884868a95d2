"""A set of ImageNet's size with many shards: time to the first batch, memory of a worker."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import Limit, report
from benchmarks.synthetic import make_empty_set
from dr_plugins.policies.policy import Policy

IMAGES, SHARDS, SAMPLES = 1_281_167, 10_000, 2
BATCH = 256


def main(out: Path) -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as folder:
        policy = Policy.load("randaug")
        make_empty_set(Path(folder), policy, images=IMAGES, samples=SAMPLES, shards=SHARDS)
        seconds = min(_first_batch(folder) for _ in range(3))
        own = _worker(folder, collect=False)
        added = _worker(folder, collect=True)
    title = f"Opening: {IMAGES:,} images in {SHARDS:,} shards, S = {SAMPLES}, warm cache"
    rows = [
        Limit("open the set, look up and read a batch", "s", seconds, 2.0),
        Limit("a worker's own memory after reading all shards", "MB", own / 1e6, 150.0),
        Limit("the same, without Python's copies of its parent", "MB", added / 1e6, 150.0),
    ]
    report(title, rows, out / "opening.json")


_FIRST = """
import sys, time, numpy as np
from dr_plugins.shards.reader import ShardSet
start = time.perf_counter()
shards = ShardSet(sys.argv[1])
rng = np.random.default_rng(0)
keys = [shards.keys[row] for row in rng.integers(0, len(shards), int(sys.argv[2])).tolist()]
shards.read(shards.keys.rows(keys), np.zeros(len(keys), int))
print(time.perf_counter() - start)
"""


def _first_batch(folder: str) -> float:
    """Seconds in a fresh process, without the time that importing PyTorch takes."""
    return float(_python(_FIRST, folder))


_READ_ALL = """
import gc, multiprocessing, sys, numpy as np
from pathlib import Path
from dr_plugins.shards.reader import ShardSet

def own_bytes():
    # Clean pages are the files' own, which the system keeps once for all and can drop.
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))

def read_all(batch, collect):
    # Each worker's garbage collector writes to all objects that it got from its parent, and so
    # copies them, sooner or later; here before anything is counted, if asked for.
    if collect:
        gc.collect()
    before = own_bytes()
    rows = np.random.default_rng(0).permutation(len(shards))
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        shards.read(part, np.zeros(len(part), np.int64))
    del rows, part
    print(own_bytes() - before)

shards = ShardSet(sys.argv[1])
args = int(sys.argv[2]), sys.argv[3] == "True"
process = multiprocessing.get_context("fork").Process(target=read_all, args=args)
process.start()
process.join()
"""


def _worker(folder: str, collect: bool) -> int:
    """What a forked worker's own memory grows by, in bytes."""
    return int(_python(_READ_ALL, folder, str(collect)))


def _python(program: str, folder: str, *args: str) -> str:
    """Run a program in a fresh process, whose memory holds nothing else."""
    command = [sys.executable, "-c", program, folder, str(BATCH), *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
