"""Kills processes that make a set, again and again, and compares the bytes of the finished set.

``python -m benchmarks.killing rank part actor --kills 25`` makes sets of tiny images with a slow
teacher. Whenever a process has begun a shard, SIGKILL hits it or what it belongs to, at a random
moment. Commands that end with an error are started again. A finished set counts only if its files
are those of one process that nobody interrupted, and if none of its processes is left.
"""

from __future__ import annotations

import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import torch
from torch import nn

from tests.tiny import TinyTeacher, make_photographs

_OPTIONS = "--teacher python:benchmarks.killing:teacher --min-agreement 0 --quiet --size 16"
_OPTIONS += " --samples 16 --topk 2 --batch-size 8 --shard-images 1 --workers 1"
_SECONDS = 0.2  # of the teacher for one batch; a shard has two
_PER_CLASS = 12  # images; 36 shards in all
_PATIENCE = 1500.0  # seconds until something that must happen counts as a fault
_EACH = 8  # kills in one set at the most


class Slow(TinyTeacher):
    """Leaves time to be killed in, and says which process works."""

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        if "WORKING" in os.environ and len(views) > 1:
            (Path(os.environ["WORKING"]) / str(os.getpid())).write_text(_node())
            time.sleep(_SECONDS)
        return super().forward(views)


def teacher() -> nn.Module:
    """For ``--teacher python:benchmarks.killing:teacher``."""
    return Slow()


def _node() -> str:
    """The node of Ray that this process runs on; empty without Ray."""
    ray = sys.modules.get("ray")
    return str(ray.get_runtime_context().get_node_id()) if ray and ray.is_initialized() else ""


class Making:
    """Commands that make one set; those that end with an error are started again.

    Args:
        commands: What to run.
        folder: Where processes say that they work.
        log: File for their messages.
    """

    def __init__(self, commands: Sequence[Sequence[str]], folder: Path, log: Path) -> None:
        self._commands, self._folder, self._log = commands, folder, log
        self._running = [self._start(command) for command in commands]

    def working(self) -> dict[int, str]:
        """Return the processes that have worked since the last call, and Ray's nodes of them."""
        found = {}
        for path in self._folder.iterdir():
            if Path("/proc", path.name).exists():
                found[int(path.name)] = path.read_text()
            path.unlink()
        return found

    def is_running(self, *, complete: bool) -> bool:
        """Start commands again that failed; returns whether any of them runs.

        Args:
            complete: Whether the set is complete.
        """
        for number, process in enumerate(self._running):
            if process.poll() and not complete:
                self._running[number] = self._start(self._commands[number])
            elif complete and _is_torchrun(process) and not list(_descendants(process.pid)):
                process.kill()  # it waits five minutes for the end of machines that it lost
                process.wait()
        return any(process.poll() is None for process in self._running)

    def started(self, process: int) -> bool:
        """Return whether one of the commands is this process."""
        return process in [own.pid for own in self._running]

    def drivers(self) -> list[int]:
        """Return the commands' processes."""
        return [own.pid for own in self._running]

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            environment = {"WORKING": str(self._folder), "OMP_NUM_THREADS": "1"}
            return subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **environment}
            )


# --- what is killed: each returns false if this victim will not do -----------------------------

Kill = Callable[[Making, int, str], bool]


def _kill_process(making: Making, process: int, node: str) -> bool:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:  # it has just ended
        return False
    return True


def _kill_launcher(making: Making, process: int, node: str) -> bool:
    """Kill torchrun alone: its ranks continue as orphans."""
    parent = _parent(process)
    return making.started(parent) and _kill_process(making, parent, node)


def _kill_machine(making: Making, process: int, node: str) -> bool:
    """Kill torchrun with all its ranks and their workers."""
    parent = _parent(process)
    if not making.started(parent):
        return False
    for one in [parent, *_descendants(parent)]:
        _kill_process(making, one, node)
    return True


def _kill_driver(making: Making, process: int, node: str) -> bool:
    return _kill_process(making, making.drivers()[0], node)


def _is_torchrun(process: subprocess.Popen[bytes]) -> bool:
    return "torch.distributed.run" in str(process.args)


def _parent(process: int) -> int:
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])


def _descendants(process: int) -> Iterator[int]:
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return
    for one in map(int, children.split()):
        yield one
        yield from _descendants(one)


# --- what makes a set -----------------------------------------------------------------------------


def _plain(reinforce: list[str]) -> list[list[str]]:
    return [[sys.executable, *reinforce]] * 3


def _parts(reinforce: list[str]) -> list[list[str]]:
    return [[sys.executable, *reinforce, "--part", f"{number}/3"] for number in (1, 2, 3)]


def _torchrun(reinforce: list[str], *options: str) -> list[str]:
    restarts = ["--nproc-per-node", "2", "--max-restarts", "100"]
    return [sys.executable, "-m", "torch.distributed.run", *restarts, *options, *reinforce]


def _one_machine(reinforce: list[str]) -> list[list[str]]:
    return [_torchrun(reinforce, "--standalone")]


def _two_machines(reinforce: list[str]) -> list[list[str]]:
    """One job of one or two machines, which join and leave."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        endpoint = f"localhost:{free.getsockname()[1]}"
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", "killing"]
    meeting += ["--rdzv-conf", "last_call_timeout=3"]
    return [_torchrun(reinforce, "--nnodes", "1:2", *meeting)] * 2


def _ray(reinforce: list[str]) -> list[list[str]]:
    return [[sys.executable, *reinforce, "--engine", "ray", "--actors", "2", "--device", "cpu"]]


@contextmanager
def _ray_cluster() -> Iterator[dict[str, Kill]]:
    """A cluster of a head without room for actors, and nodes with room for one each."""
    from ray.cluster_utils import Cluster

    os.environ.update(RAY_AUTH_MODE="disabled", PYTHONPATH=os.getcwd())
    with tempfile.TemporaryDirectory() as working:
        os.environ["WORKING"] = working  # nodes hand their environment to the actors
        size = {"object_store_memory": 80 << 20}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **size})
        for _ in range(2):
            cluster.add_node(num_cpus=2, **size)
        os.environ["RAY_ADDRESS"] = cluster.address

        def kill_node(making: Making, process: int, node: str) -> bool:
            """Kill a node with all its processes; another one takes its place."""
            found = [one for one in cluster.worker_nodes if one.node_id == node]
            for one in found:
                cluster.remove_node(one, allow_graceful=False)
                cluster.add_node(wait=False, num_cpus=2, **size)
            return bool(found)

        try:
            yield {"actor": _kill_process, "ray-node": kill_node, "driver": _kill_driver}
        finally:
            cluster.shutdown()


KINDS: dict[str, tuple[Callable[[list[str]], list[list[str]]], Kill]] = {
    "process": (_plain, _kill_process),
    "part": (_parts, _kill_process),
    "rank": (_one_machine, _kill_process),
    "launcher": (_one_machine, _kill_launcher),
    "machine": (_two_machines, _kill_machine),
}
ON_RAY = ("actor", "ray-node", "driver")


# --- campaign -------------------------------------------------------------------------------------


class Campaign:
    """Makes sets of the same images, and kills what makes them.

    Args:
        root: Where all files go.
        rng: Decides who is killed, and when.
    """

    def __init__(self, root: Path, rng: random.Random) -> None:
        self._root, self._rng = root, rng
        self._images = make_photographs(root / "train", _PER_CLASS)
        self.sets = 0
        out = root / "alone"
        subprocess.run([sys.executable, *self._reinforce(out)], check=True, capture_output=True)
        self._expected = _files(out)

    def run(self, commands: Callable[[list[str]], list[list[str]]], kill: Kill, most: int) -> int:
        """Make one set and return the number of kills, `most` at the most.

        Raises:
            SystemExit: The set differs, is not completed, or processes are left over.
        """
        self.sets += 1
        out = self._root / f"set-{self.sets}"
        working = Path(os.environ.get("WORKING") or tempfile.mkdtemp(dir=self._root))
        making = Making(commands(self._reinforce(out)), working, self._root / f"{out.name}.log")
        kills, seen = 0, set[int]()
        with self._patience(out) as wait:
            while making.is_running(complete=(out / "manifest.json").exists()):
                if kills == most or not (found := making.working()):
                    wait()
                    continue
                seen |= set(found)
                time.sleep(self._rng.uniform(0, 4 * _SECONDS))
                victim = self._rng.choice(sorted(found))
                if not (out / "manifest.json").exists() and Path(f"/proc/{victim}").exists():
                    kills += kill(making, victim, found[victim])
                    making.working()
            self._compare(out)
            while _alive(seen):
                wait()
        return kills

    @contextmanager
    def _patience(self, out: Path) -> Iterator[Callable[[], None]]:
        def wait() -> None:
            if time.monotonic() > limit:
                raise SystemExit(f"{out}: not completed; see {out}.log in {self._keep()}")
            time.sleep(0.05)

        limit = time.monotonic() + _PATIENCE
        yield wait

    def _compare(self, out: Path) -> None:
        made = _files(out)
        if made != self._expected:
            names = {*made, *self._expected}
            other = sorted(n for n in names if made.get(n) != self._expected.get(n))
            raise SystemExit(f"{out}: other files: {other}; see {self._keep()}")

    def _keep(self) -> Path:
        kept = Path(tempfile.mkdtemp(prefix="killing-"))
        subprocess.run(["cp", "-r", str(self._root), str(kept)], check=True)
        return kept

    def _reinforce(self, out: Path) -> list[str]:
        places = ["--images", str(self._images), "--out", str(out)]
        return ["-m", "dr_plugins", "reinforce", *places, *shlex.split(_OPTIONS)]


def _alive(processes: set[int]) -> bool:
    return any(Path(f"/proc/{process}").exists() for process in processes)


def _files(directory: Path) -> dict[str, bytes]:
    if not (directory / "manifest.json").exists():
        return {}
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.name != ".lock"}


def _campaign(kinds: dict[str, Kill], campaign: Campaign, kills: int) -> None:
    for kind, kill in kinds.items():
        commands, _ = KINDS.get(kind, (_ray, kill))
        done, before, begun = 0, campaign.sets, time.monotonic()
        while done < kills:
            done += campaign.run(commands, kill, min(_EACH, kills - done))
            click.echo(f"{kind}: {done} kills, {campaign.sets - before} sets", err=True)
        seconds = time.monotonic() - begun
        sets = campaign.sets - before
        click.echo(f"{kind}: {done} kills in {sets} sets, all byte-identical, {seconds:.0f} s")


@click.command()
@click.argument("kinds", nargs=-1, required=True, type=click.Choice([*KINDS, *ON_RAY]))
@click.option("--kills", type=click.IntRange(min=1), default=25, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(kinds: tuple[str, ...], kills: int, seed: int) -> None:
    """Kill processes at random while they make sets, --kills of each kind in KINDS."""
    with tempfile.TemporaryDirectory() as place:
        campaign = Campaign(Path(place), random.Random(seed))
        _campaign({kind: KINDS[kind][1] for kind in kinds if kind in KINDS}, campaign, kills)
        if chosen := [kind for kind in kinds if kind in ON_RAY]:
            with _ray_cluster() as found:
                _campaign({kind: found[kind] for kind in chosen}, campaign, kills)


if __name__ == "__main__":
    main()
