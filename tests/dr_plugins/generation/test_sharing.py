"""Several processes make one set: who makes what, who finishes, and what a death leaves behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dr_plugins.errors import LockedError, SettingsMismatchError, TeacherError
from dr_plugins.generation.generate import GenerationSettings, reinforce, reinforce_part
from dr_plugins.generation.sharing import Part, SharedShards
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import open_source
from dr_plugins.shards.claims import joined, locked, waited_for_others
from dr_plugins.shards.location import LocalPath
from dr_plugins.shards.output import OutputDirectory
from dr_plugins.shards.reader import ShardSet
from tests.dr_plugins.generation.whole_sets import Counting
from tests.tiny import TinyTeacher, files, policy

SHARDS = 6  # of two images each


def make(out: Path, images: Path, teacher: nn.Module | None = None, **options: Any) -> Any:
    settings = GenerationSettings(policy(), samples=3, topk=2, batch_size=4, shard_images=2)
    options = {"min_agreement": 0, "check_images": None, **options}
    ensemble = Ensemble([teacher or TinyTeacher()])
    return reinforce_part(open_source(str(images)), ensemble, out, settings, **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> dict[str, bytes]:
    """The set that one process makes without interruption."""
    out = tmp_path_factory.mktemp("alone") / "set"
    make(out, photographs)
    return files(out)


def started(function: Callable[[], Any]) -> Any:
    """Run in a forked process."""

    def run() -> None:
        torch.set_num_threads(1)
        function()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def stop_here() -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
    """How a process waits: what it calls, who waits for that, and who lets it continue."""
    here, there = multiprocessing.Pipe()

    def wait() -> None:
        there.send("waiting")
        there.recv()

    return wait, here.recv, lambda: here.send("continue")


def test_processes_share_the_shards(
    tmp_path: Path, photographs: Path, alone: dict[str, bytes]
) -> None:
    out = tmp_path / "set"
    processes = [started(lambda: make(out, photographs, workers=1)) for _ in range(3)]
    make(out, photographs)  # returns when all is done
    assert files(out) == alone
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_a_shard_that_is_made_is_left_to_its_maker(tmp_path: Path, photographs: Path) -> None:
    wait, waiting, proceed = stop_here()
    other = started(lambda: make(tmp_path, photographs, Counting(2, wait)))
    waiting()  # it has claimed the first shard
    with joined(tmp_path) as claims:
        output = OutputDirectory.reopen(tmp_path)
        shards = SharedShards(output, claims, range(SHARDS))
        assert next(shards.free()) == 1
        assert shards.pending == [0, 2, 3, 4, 5]
        assert claims.is_taken(0)
        assert not claims.is_taken(2)
    proceed()
    other.join()
    assert len(ShardSet(tmp_path)) == 12


@pytest.mark.parametrize("call", [2, 4, 6, 9])
def test_the_shard_of_a_killed_process_is_made_again(
    tmp_path: Path, photographs: Path, alone: dict[str, bytes], call: int
) -> None:
    wait, waiting, _ = stop_here()
    other = started(lambda: make(tmp_path, photographs, Counting(call, wait)))
    waiting()
    # This one makes the rest, and waits for the claimed shard: what it waits for is the kill.
    helper = started(lambda: make(tmp_path, photographs))
    os.kill(other.pid, signal.SIGKILL)
    helper.join()
    other.join()
    assert helper.exitcode == 0
    assert files(tmp_path) == alone


def test_who_waits_is_woken_by_the_end_of_the_maker(
    tmp_path: Path, photographs: Path, alone: dict[str, bytes]
) -> None:
    wait, waiting, _ = stop_here()
    other = started(lambda: make(tmp_path, photographs, Counting(2, wait)))
    waiting()
    last = stop_here()

    def rest() -> None:
        make(tmp_path, photographs, Counting(11, last[0]))  # in its last batch

    helper = started(rest)
    last[1]()
    assert not (tmp_path / "shard-00000.safetensors").exists()
    last[2]()
    other.kill()
    helper.join()
    other.join()
    assert files(tmp_path) == alone


def test_a_failure_is_noted_and_its_shard_made_last(
    tmp_path: Path, photographs: Path, alone: dict[str, bytes]
) -> None:
    wait, waiting, proceed = stop_here()
    other = started(lambda: make(tmp_path, photographs, Counting(2, wait)))
    waiting()  # so that this one is not alone

    def fail() -> None:
        raise TeacherError("broken")

    from dr_plugins.generation.sharing import Process

    with pytest.raises(TeacherError):
        make(tmp_path, photographs, Counting(2, fail), process=Process("rank 3", 3, 4))
    note = json.loads((tmp_path / "failed-00001.json").read_text())
    assert note == {"by": "rank 3", "error": "TeacherError: broken"}
    with joined(tmp_path) as claims:
        shards = SharedShards(OutputDirectory.reopen(tmp_path), claims, range(SHARDS))
        assert list(shards.free()) == [2, 3, 4, 5, 1]
    proceed()
    other.join()
    assert files(tmp_path) == alone


def test_parts_are_every_nth_shard(
    tmp_path: Path, photographs: Path, alone: dict[str, bytes]
) -> None:
    for number in (3, 1):
        assert make(tmp_path, photographs, part=Part(number, 3)) is None
    made = sorted(p.name[6:11] for p in tmp_path.glob("shard-*"))
    assert made == ["00000", "00002", "00003", "00005"]
    assert make(tmp_path, photographs, part=Part(2, 3)) is not None
    assert files(tmp_path) == alone


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/0", "1", "a/b", "-1/2", "1/2/3"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(ValueError, match="I/N"):
        Part.parse(text)


def test_other_settings_are_refused_while_others_work(tmp_path: Path, photographs: Path) -> None:
    wait, waiting, proceed = stop_here()
    other = started(lambda: make(tmp_path, photographs, Counting(2, wait)))
    waiting()  # no shard is stored yet
    settings = GenerationSettings(policy(), samples=4, topk=2, batch_size=4, shard_images=2)
    with pytest.raises(SettingsMismatchError, match="samples: 3 there, 4 now"):
        reinforce(open_source(str(photographs)), Ensemble([TinyTeacher()]), tmp_path, settings)
    with pytest.raises(LockedError), locked(tmp_path):
        pass
    proceed()
    other.join()
    assert ShardSet(tmp_path).manifest.samples == 3


def test_damage_is_found_before_the_set_is_finished(
    tmp_path: Path, photographs: Path, alone: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1, 6):
        make(tmp_path, photographs, part=Part(number, 6))
    for number in range(5):  # more than are compared at the start
        file = tmp_path / f"shard-{number:05d}.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    make(tmp_path, photographs, part=Part(6, 6))
    for number in range(5):
        assert f"shard-{number:05d}.safetensors" in caplog.text
    assert files(tmp_path) == alone


# --- locks ----------------------------------------------------------------------------------------


def test_locks_exclude_other_openings_of_the_file(tmp_path: Path) -> None:
    with LocalPath(tmp_path).locks() as one, LocalPath(tmp_path).locks() as other:
        assert one.acquire(7)
        assert not other.acquire(7)
        assert other.is_held(7)
        assert not one.is_held(7)
        assert other.acquire(8)
        one.release(7)
        assert one.acquire(7, shared=True)
        assert other.acquire(7, shared=True)
        assert not other.acquire(7)  # does not become exclusive
        assert one.is_held(7)
        assert other.acquire(1 << 40)


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    wait, waiting, _ = stop_here()

    def hold() -> None:
        with LocalPath(tmp_path).locks() as locks:
            locks.acquire(3)
            wait()

    process = started(hold)
    waiting()
    with LocalPath(tmp_path).locks() as locks:
        assert not locks.acquire(3)
        process.kill()
        assert locks.acquire(3, wait=True)
    process.join()


def test_a_hanging_worker_keeps_no_lock(tmp_path: Path) -> None:
    read, write = os.pipe()

    def hold() -> None:
        with LocalPath(tmp_path).locks() as locks:
            locks.acquire(3)
            if not os.fork():  # the worker, after what Python does in it first
                os.write(write, os.getpid().to_bytes(4, "little"))
            signal.pause()

    process = started(hold)
    worker = int.from_bytes(os.read(read, 4), "little")
    process.kill()
    process.join()
    with LocalPath(tmp_path).locks() as locks:
        taken = locks.acquire(3)
    os.kill(worker, signal.SIGKILL)
    assert taken


def test_nobody_is_waited_for_where_nobody_works(tmp_path: Path) -> None:
    waited_for_others(tmp_path)
    with joined(tmp_path) as claims, claims.preparing() as is_alone:
        assert is_alone
    with joined(tmp_path) as one, joined(tmp_path) as other:
        with one.preparing() as is_alone:
            assert is_alone
        with other.preparing() as is_alone:
            assert not is_alone
