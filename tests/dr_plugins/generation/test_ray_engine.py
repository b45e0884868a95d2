"""Generation on a local Ray cluster, whose actors and nodes are killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dr_plugins.cli.processes import parse_actors
from dr_plugins.errors import TeacherError, WorkerError
from dr_plugins.generation import ray_engine
from dr_plugins.generation.engines import Actors
from dr_plugins.generation.job import GenerationJob
from dr_plugins.generation.planning import GenerationSettings
from dr_plugins.generation.ray_engine import reinforce_on_ray
from tests.tiny import TinyTeacher, files, policy

HERE = "python:tests.dr_plugins.generation.test_ray_engine"


@pytest.mark.parametrize(("least", "most"), [(0, 1), (2, 1)])
def test_numbers_of_actors(least: int, most: int) -> None:
    with pytest.raises(ValueError, match="MIN"):
        Actors(least, most)


@pytest.mark.parametrize(
    ("options", "actors"),
    [
        (("3", None, (), 4, "cpu", ()), Actors(3, 3, 0, 5, {})),
        (("1:8", None, ("a=1", "x=0.5"), 0, "cuda", ()), Actors(1, 8, 1, 1, {"a": 1, "x": 0.5})),
        (("1", None, (), 0, "cuda:0", ("cuda:0", "cuda:1", "cuda:1")), Actors(1, 1, 2, 1, {})),
        (("1", 0.5, (), 0, "cuda", ()), Actors(1, 1, 0.5, 1, {})),
    ],
)  # fmt: skip
def test_actors_from_the_command_line(options: Any, actors: Actors) -> None:
    assert parse_actors(*options) == actors


@pytest.mark.parametrize(("numbers", "resources"), [("x", ()), ("2:1", ()), ("1", ("a100",))])
def test_actors_that_cannot_be_parsed(numbers: str, resources: tuple[str, ...]) -> None:
    from click import BadParameter

    with pytest.raises(BadParameter):
        parse_actors(numbers, None, resources, 0, "cpu", ())


def test_without_ray_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WorkerError, match=r"dr-plugins\[ray\]"):
        reinforce_on_ray(job(tmp_path, tmp_path, "build"), Actors(), "cpu")


def test_connecting_keeps_the_handler_of_sigterm(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own handler aborts the process, so the command could not end its actors."""

    class ConnectedError(Exception):
        pass

    class Ray:
        @staticmethod
        def is_initialized() -> bool:
            return False

        @staticmethod
        def init() -> None:
            signal.signal(signal.SIGTERM, lambda *_: os.abort())

        @staticmethod
        def remote(_: type) -> None:
            raise ConnectedError

    def ours(*_: object) -> None: ...

    monkeypatch.setattr(ray_engine, "_ray", Ray)
    before = signal.signal(signal.SIGTERM, ours)
    try:
        with pytest.raises(ConnectedError):
            reinforce_on_ray(job(tmp_path, photographs, "build"), Actors(), "cpu")
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


# --- on a cluster ---------------------------------------------------------------------------------


class Visited(TinyTeacher):
    """In its first shard, the first of all waits to be killed, where it finds a flag."""

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        self.calls = getattr(self, "calls", -1) + 1
        place = Path(os.environ["MEETING"]) if "MEETING" in os.environ else None
        if place is not None and self.calls == 2:  # the first two calls count classes
            try:
                (place / "flag").unlink()
            except FileNotFoundError:
                return super().forward(views)
            (place / "pipe").write_text(f"{os.getpid()} {node_id()}")
            signal.pause()
        return super().forward(views)


def node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


class Broken(TinyTeacher):
    def forward(self, views: torch.Tensor) -> torch.Tensor:
        if len(views) > 1:
            raise TeacherError("out of order")
        return super().forward(views)


def build() -> nn.Module:
    return Visited()


def broken() -> nn.Module:
    return Broken()


def job(out: Path, images: Path, teacher: str) -> GenerationJob:
    settings = GenerationSettings(policy(), samples=3, topk=2, batch_size=4, shard_images=2)
    return GenerationJob(
        str(images), (f"{HERE}:{teacher}",), out, settings, min_agreement=0, path=os.getcwd()
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    meeting = tmp_path_factory.mktemp("meeting")
    os.mkfifo(meeting / "pipe")
    changed = {"MEETING": str(meeting), "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    here = os.getcwd()
    os.chdir(meeting)  # a cluster does not run where its driver does
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    os.chdir(here)
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.meeting = meeting
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def kill_actor(cluster: Any, process: int, node: str) -> None:
    os.kill(process, signal.SIGKILL)


def kill_node(cluster: Any, process: int, node: str) -> None:
    (found,) = [one for one in cluster.worker_nodes if one.node_id == node]
    cluster.remove_node(found, allow_graceful=False)


@pytest.mark.slow
def test_when_all_actors_fail_the_first_error_is_raised(
    tmp_path: Path, photographs: Path, cluster: Any
) -> None:
    with pytest.raises(TeacherError, match=r"^out of order$"):
        reinforce_on_ray(job(tmp_path / "set", photographs, "broken"), Actors(), "cpu")


@pytest.mark.slow
def test_sigterm_ends_the_driver_with_its_actors(
    tmp_path: Path, photographs: Path, cluster: Any
) -> None:
    (cluster.meeting / "flag").touch()
    options = "--size 24 --samples 3 --topk 2 --batch-size 4 --shard-images 2 --min-agreement 0"
    places = ["--images", photographs, "--out", tmp_path / "set", "--teacher", f"{HERE}:build"]
    ray = ["--engine", "ray", "--device", "cpu", "--workers", "0", "--quiet"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "dr_plugins", "reinforce", *places, *options.split(), *ray],
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        stderr=subprocess.PIPE,
    )
    process, _ = (cluster.meeting / "pipe").read_text().split()  # it has begun a shard
    actor = os.pidfd_open(int(process))
    driver.terminate()
    _, messages = driver.communicate()
    assert driver.returncode == 128 + signal.SIGTERM, messages
    assert b"Run the same command to resume" in messages
    select.select([actor], [], [])  # until it has ended
    os.close(actor)
    made = tmp_path / "set"
    assert {"unfinished.json", "index.safetensors"} <= files(made).keys()
    assert not [name for name in files(made) if name.endswith(".tmp")]
    for out in ("set", "alone"):
        job(tmp_path / out, photographs, "build").run("cpu")
    assert files(made) == files(tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("kill", [kill_actor, kill_node])
def test_actors_and_nodes_may_die(
    tmp_path: Path, photographs: Path, cluster: Any, kill: Callable[[Any, int, str], None]
) -> None:
    relative = [Path(os.path.relpath(path)) for path in (tmp_path / "set", photographs)]
    made = job(*relative, "build")
    job(tmp_path / "alone", photographs, "build").run("cpu")
    (cluster.meeting / "flag").touch()

    def visit() -> None:
        process, node = (cluster.meeting / "pipe").read_text().split()
        kill(cluster, int(process), node)

    visitor = threading.Thread(target=visit)
    visitor.start()
    manifest = reinforce_on_ray(made, Actors(1, 2), "cpu")
    visitor.join()
    assert len(manifest.shards) == 6
    assert files(tmp_path / "set") == files(tmp_path / "alone")
