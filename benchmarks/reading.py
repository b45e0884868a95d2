"""Reading one reinforcement, and bytes for each, against ml-dr's files and archives."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import Row, compare, report
from benchmarks.synthetic import make_synthetic_set, mldr_file
from dr_plugins.policies.policy import Policy
from dr_plugins.shards.reader import ShardSet

SAMPLES, TOPK, IMAGES = 400, 10, 512
PUBLISHED = {"rrc": 65, "mixing": 90, "randaug": 73, "randaug_mixing": 104}


def main(out: Path) -> None:
    """Measure and report."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, published in PUBLISHED.items():
            shards = make_synthetic_set(
                Path(folder) / name, Policy.load(name), images=IMAGES, samples=SAMPLES, topk=TOPK
            )
            rows.append(_bytes(name, shards, published))
            if name == "randaug":
                rows += _reading(name, shards, Path(folder))
    report(f"Reading, S = {SAMPLES}, k = {TOPK}, warm cache", rows, out / "reading.json")


def _bytes(name: str, shards: ShardSet, published: int) -> Row:
    size = sum(path.stat().st_size for path in shards.directory.iterdir())
    each = size / (IMAGES * SAMPLES)
    return Row(
        f"bytes per reinforcement, {name}",
        "published gzip archive",
        "bytes",
        each,
        published,
        published / each,
        1.0,
    )


def _reading(name: str, shards: ShardSet, folder: Path) -> list[Row]:
    files = [folder / f"{row}.pth.tar" for row in range(16)]
    for row, file in enumerate(files):
        mldr_file(file, shards, row)
    rng = np.random.default_rng(0)
    keys = [shards.keys[row] for row in rng.integers(0, IMAGES, 2000).tolist()]
    rows = rng.integers(0, IMAGES, 256)
    samples = rng.integers(0, SAMPLES, 256)

    def one_by_key() -> int:
        for key in keys[:500]:
            shards[key, 7]
        return 500

    def one_by_row() -> int:
        for row in rows.tolist():
            shards[row, 7]
        return len(rows)

    def batch() -> int:
        for _ in range(20):
            shards.read(rows, samples)
        return 20 * len(rows)

    def pickled() -> int:
        for file in files:
            torch.load(file, weights_only=False)[1][7]
        return len(files)

    peer = "torch.load of ml-dr's file"
    results = []
    for what, function, hold in (
        ("look up a key, read one", one_by_key, 100),
        ("read one by row", one_by_row, 300),
        ("read a batch of 256", batch, 300),
    ):
        ours, theirs, ratio = compare(function, pickled)
        results.append(Row(f"{what}, {name}", peer, "us", ours * 1e6, theirs * 1e6, ratio, hold))
    return results
