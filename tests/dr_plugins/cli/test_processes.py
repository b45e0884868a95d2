"""``reinforce`` as one of several processes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from dr_plugins.cli.processes import count_workers, ending
from dr_plugins.errors import TeacherError
from dr_plugins.generation.launch import Rank
from tests.dr_plugins.cli.test_main import error_of, reinforce, run
from tests.tiny import TinyTeacher, files


@pytest.fixture(autouse=True)
def plain_messages() -> Iterator[None]:
    before = [(handler, handler.formatter) for handler in logging.getLogger().handlers]
    yield
    for handler, formatter in before:
        handler.setFormatter(formatter)


def test_parts_finish_and_status(tmp_path: Path, photographs: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "parts"
    reinforce(photographs, whole, "--min-agreement", 0)
    for number in (3, 1):
        made = reinforce(photographs, out, "--min-agreement", 0, "--part", f"{number}/3")
        assert made.exit_code == 0, made.output
    assert "2 of 3 shards" in made.stdout
    assert "2 of 3 shards" in run("status", out).stdout
    assert ": 1." in error_of(run("finish", out))
    assert reinforce(photographs, out, "--min-agreement", 0, "--part", "2/3").exit_code == 0
    for command in ("finish", "status"):
        assert "12 images x 2 reinforcements" in run(command, out).stdout
    assert files(out) == files(whole)


def test_what_is_no_part_is_wrong_usage(tmp_path: Path, photographs: Path) -> None:
    assert "I/N" in error_of(reinforce(photographs, tmp_path, "--part", "4/3"), code=2)


def test_options_of_actors_need_an_engine(tmp_path: Path, photographs: Path) -> None:
    for options in (("--actors", "4"), ("--actor-gpus", 1), ("--actor-resource", "a100=1")):
        assert "--engine" in error_of(reinforce(photographs, tmp_path, *options), code=2)


def test_an_engine_makes_no_part(tmp_path: Path, photographs: Path) -> None:
    options = ("--engine", "ray", "--part", "1/2")
    assert "--part" in error_of(reinforce(photographs, tmp_path, *options), code=2)


def test_a_list_that_exists_is_read_without_a_lock(tmp_path: Path, photographs: Path) -> None:
    """Its folder may be read-only."""
    (tmp_path / "list.txt").touch()
    (tmp_path / "list.txt.lock").mkdir()  # no lock can be made
    options = ("--min-agreement", 0, "--skip-unreadable", tmp_path / "list.txt")
    result = reinforce(photographs, tmp_path / "set", *options, "--part", "1/1")
    assert result.exit_code == 0, result.output


def test_teachers_have_devices(tmp_path: Path, photographs: Path) -> None:
    two = ("--teacher", "python:tests.tiny:build_teacher", "--min-agreement", 0)
    assert reinforce(photographs, tmp_path / "one", *two).exit_code == 0
    apart = reinforce(photographs, tmp_path / "two", *two, "--teacher-devices", "cpu,cpu")
    assert apart.exit_code == 0, apart.output
    assert files(tmp_path / "one") == files(tmp_path / "two")
    few = reinforce(photographs, tmp_path / "three", *two, "--teacher-devices", "cpu")
    assert "1 devices for 2 teachers" in error_of(few)
    both = ("--device", "cpu", "--teacher-devices", "cpu,cpu")
    assert "--device" in error_of(reinforce(photographs, tmp_path / "four", *two, *both), code=2)


def test_ranks_share_the_cores_of_their_machine() -> None:
    cores = len(os.sched_getaffinity(0))
    assert count_workers(None, 1, None) == cores
    assert count_workers(None, 10 * cores, None) == 1
    assert count_workers(0, 2, "ray") == 0


def test_a_failed_rank_fails_unless_the_others_complete_the_set(tmp_path: Path) -> None:
    rank = Rank(1, 2, 1, 2)
    with pytest.raises(TeacherError), ending(rank, tmp_path):
        raise TeacherError("no")
    (tmp_path / "manifest.json").touch()
    with ending(rank, tmp_path):
        raise TeacherError("no")
    with pytest.raises(TeacherError), ending(None, tmp_path):
        raise TeacherError("no")


# --- torchrun -------------------------------------------------------------------------------------

SMALL = ["--samples", "2", "--topk", "2", "--size", "16", "--shard-images", "1", "--workers", "0"]
SMALL += ["--min-agreement", "0", "--check-images", "quick"]


class Deadly(TinyTeacher):
    """Ends rank 1 in its first shard, when rank 0 is in one as well; in the first attempt only."""

    def forward(self, views: object) -> object:
        self.calls = getattr(self, "calls", -1) + 1
        meeting = os.environ.get("MEETING")
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        if meeting and first and self.calls == 2:  # the first two calls count classes
            if os.environ["RANK"] == "1":
                Path(meeting).write_text("here")  # a pipe: waits for its reader
                self.end()
            else:
                Path(meeting).read_text()
        return super().forward(views)  # type: ignore[arg-type]

    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Failing(Deadly):
    def end(self) -> None:
        raise TeacherError("out of order")


def deadly() -> nn.Module:
    return Deadly()


def failing() -> nn.Module:
    return Failing()


def torchrun(out: Path, images: Path, teacher: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", "2", "--max-restarts", "1", "-m", "dr_plugins"]
    command = [*launcher, "reinforce", "--images", str(images), "--out", str(out), *SMALL]
    command += ["--teacher", f"python:tests.dr_plugins.cli.test_processes:{teacher}"]
    meeting = out.parent / "meeting"
    os.mkfifo(meeting)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MEETING": str(meeting)}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=environment
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "set"
    teacher = ["--teacher", "python:tests.dr_plugins.cli.test_processes:deadly"]
    made = run("reinforce", "--images", photographs, *teacher, "--out", out, *SMALL)
    assert made.exit_code == 0, made.output
    return files(out)


@pytest.mark.slow
def test_torchrun_starts_again_when_a_rank_is_killed(
    tmp_path: Path, photographs: Path, whole: dict[str, bytes]
) -> None:
    result = torchrun(tmp_path / "set", photographs, "deadly")
    assert result.returncode == 0, result.stderr
    assert files(tmp_path / "set") == whole
    # By rank 0: once, or twice where it had finished when rank 1 was killed.
    assert 1 <= result.stdout.count("12 images x 2 reinforcements") <= 2


@pytest.mark.slow
def test_a_rank_that_fails_leaves_the_rest_to_the_others(tmp_path: Path, photographs: Path) -> None:
    result = torchrun(tmp_path / "set", photographs, "failing")
    assert result.returncode == 0, result.stderr
    assert "out of order" in result.stderr
    assert "rank 1: " in result.stderr
    assert "restart" not in result.stderr
    assert (tmp_path / "set" / "manifest.json").exists()
    assert not list((tmp_path / "set").glob("failed-*"))
