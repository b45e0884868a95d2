"""Kills processes that make a set, again and again, and compares what they have made at the end.

``python -m benchmarks.killing --kills 100``: in each round, torchrun, or plain processes,
make a set of tiny images; after a random time a random process dies by SIGKILL: a rank, the
launcher with all its ranks, or a whole node of two. The round ends when the set is complete, by
starting the same command again. A set counts only if its files are those of one uninterrupted
process, byte for byte.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import torch
from torch import nn

from tests.tiny import TinyTeacher, make_photographs

_SMALL = "--size 16 --samples 4 --topk 2 --batch-size 8 --shard-images 2 --workers 1"
_SECONDS = 0.15  # of the teacher for one batch
_NODES, _RANKS = 2, 2
_LAUNCHERS = ("plain", "torchrun")


class Slow(TinyTeacher):
    """Leaves time to be killed in."""

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        time.sleep(_SECONDS if "SLOW" in os.environ else 0)
        return super().forward(views)


def teacher() -> nn.Module:
    """For ``--teacher python:benchmarks.killing:teacher``."""
    return Slow()


def _files(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.name != ".lock"}


def _start(launcher: str, images: Path, out: Path, log: Path) -> list[subprocess.Popen[bytes]]:
    """Start two nodes of two processes each; each node is a process group."""
    command = [sys.executable]
    if launcher == "torchrun":
        command += ["-m", "torch.distributed.run", "--standalone", "--max-restarts", "1"]
        command += ["--nproc-per-node", str(_RANKS)]
    command += ["-m", "dr_plugins", "reinforce", "--images", str(images), "--out", str(out)]
    command += ["--teacher", "python:benchmarks.killing:teacher", "--quiet", *_SMALL.split()]
    command += ["--min-agreement", "0"]
    count = _NODES if launcher == "torchrun" else _NODES * _RANKS
    with log.open("ab") as stderr:
        return [
            subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
                env={**os.environ, "SLOW": "1", "OMP_NUM_THREADS": "1"},
            )
            for _ in range(count)
        ]


def _children(process: int) -> list[int]:
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def _kill_one(nodes: list[subprocess.Popen[bytes]], rng: random.Random) -> str:
    """Kill a rank, a launcher, or a node; returns which."""
    node = rng.choice(nodes)
    ranks = _children(node.pid)
    what = rng.choice(["rank", "launcher", "node"]) if ranks else "node"
    victims = {"rank": [rng.choice(ranks or [node.pid])], "launcher": [node.pid]}
    if what == "node":
        os.killpg(node.pid, signal.SIGKILL)
    else:
        os.kill(victims[what][0], signal.SIGKILL)
    return what


def _round(launcher: str, images: Path, out: Path, rng: random.Random, kills: int) -> Counter[str]:
    """Make a set although processes are killed; returns what was killed."""
    killed: Counter[str] = Counter()
    log = out.parent / f"{out.name}.log"
    while not (out / "manifest.json").exists():
        nodes = _start(launcher, images, out, log)
        time.sleep(rng.uniform(6, 25))
        alive = [node for node in nodes if node.poll() is None]
        if alive and sum(killed.values()) < kills and not (out / "manifest.json").exists():
            killed[_kill_one(alive, rng)] += 1
        if rng.random() < 0.2:  # the others complete the set, or all end and start again
            for node in nodes:
                if node.poll() is None and not (out / "manifest.json").exists():
                    os.killpg(node.pid, signal.SIGKILL)
                    killed["node"] += 1
        for node in nodes:
            node.wait(timeout=300)
    return killed


@click.command()
@click.option("--kills", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--limit", default=3600, show_default=True, help="Seconds after which to stop.")
def main(kills: int, seed: int, limit: int) -> None:
    """Kill processes at random while they make sets, and compare the bytes at the end."""
    rng, total, rounds = random.Random(seed), Counter[str](), 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        images = make_photographs(root / "train", per_class=16)
        (alone,) = (root / "alone",)
        for process in _start("plain", images, alone, root / "log")[:1]:
            process.wait()
        expected = _files(alone)
        while sum(total.values()) < kills and time.monotonic() - begun < limit:
            rounds += 1
            launcher = rng.choice(_LAUNCHERS)
            out = root / f"set-{rounds}"
            total += _round(launcher, images, out, rng, 6)
            if _files(out) != expected:
                differing = {n for n in expected if _files(out).get(n) != expected[n]}
                raise SystemExit(f"round {rounds} ({launcher}): other files {differing}")
            click.echo(f"round {rounds} ({launcher}): {dict(total)}, byte-identical")
    click.echo(f"{sum(total.values())} kills in {rounds} sets, all byte-identical: {dict(total)}")


if __name__ == "__main__":
    main()
