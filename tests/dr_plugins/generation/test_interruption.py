"""Interrupted generation: killed, disks that fail, shards that are damaged, and resuming."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.datasets import ImageFolder

from dr_plugins.errors import (
    ImageReadError,
)
from dr_plugins.generation.generate import GenerationSettings, reinforce
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import ImageSource
from dr_plugins.shards.claims import locked
from tests.dr_plugins.generation.whole_sets import Counting, generate
from tests.tiny import TinyTeacher, files, hurt, make_photographs, make_set, policy


def in_child(function: Callable[[], Any]) -> tuple[int, str]:
    """Run in a forked process; its exit code (negative: the signal) and the error it met."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        torch.set_num_threads(1)  # a forked process must not wait for its parent's threads
        try:
            function()
            sender.send("")
        except Exception as error:
            sender.send(f"{type(error).__name__}: {error}")

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    sender.close()
    try:
        message = receiver.recv()
    except EOFError:
        message = "killed"
    process.join()
    assert process.exitcode is not None
    return process.exitcode, message


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at_teacher(out: Path, images: Path, call: int) -> None:
    code, _ = in_child(lambda: generate(out, images, teacher=Counting(call, kill_me)))
    assert code == -signal.SIGKILL


def killed_at_write(out: Path, images: Path, write: int, *, renamed: bool) -> None:
    """Kill between writing the n-th file and naming it, or right after."""
    count, replace = 0, os.replace

    def replace_and_die(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count == write and not renamed:
            kill_me()
        replace(source, target)
        if count == write:
            kill_me()

    def run() -> None:
        os.replace = replace_and_die  # only in the forked process
        generate(out, images)

    code, _ = in_child(run)
    assert code == -signal.SIGKILL


@pytest.mark.usefixtures("unfinished")
@pytest.mark.parametrize("calls", [(2, 2), (3, 5), (4, 2), (5, 3), (6, 2)])
def test_killed_twice_while_working_and_resumed(
    tmp_path: Path, photographs: Path, uninterrupted: Path, calls: tuple[int, int]
) -> None:
    out = tmp_path / "set"
    for call in calls:
        killed_at_teacher(out, photographs, call)
    generate(out, photographs)
    assert files(out) == files(uninterrupted)


@pytest.mark.usefixtures("unfinished")
@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("write", range(1, 8))
def test_killed_while_writing_and_resumed(
    tmp_path: Path, photographs: Path, uninterrupted: Path, write: int, renamed: bool
) -> None:
    out = tmp_path / "set"  # written: settings, index, three shards, index, manifest
    killed_at_write(out, photographs, write, renamed=renamed)
    left_over = list(out.glob("*.tmp"))
    assert len(left_over) == (0 if renamed else 1)
    generate(out, photographs)
    assert files(out) == files(uninterrupted)


def identity(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_finished_shards_are_kept_and_reported(
    tmp_path: Path, photographs: Path, uninterrupted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "set"
    killed_at_teacher(out, photographs, 4)
    kept = out / "shard-00000.safetensors"
    before = identity(kept)
    assert not (out / "shard-00001.safetensors").exists()
    teacher = Counting()
    with caplog.at_level(logging.INFO):
        generate(out, photographs, teacher=teacher, workers=1)
    assert "resuming: 1 of 3 shards are finished" in caplog.text
    assert identity(kept) == before
    assert teacher.calls == 1 + 1 + 2 + 1  # classes, a finished shard asked again, two shards
    assert files(out) == files(uninterrupted)


@pytest.mark.parametrize("position", [20, -1])
def test_a_corrupt_finished_shard_is_made_again_with_a_warning(
    tmp_path: Path,
    photographs: Path,
    uninterrupted: Path,
    caplog: pytest.LogCaptureFixture,
    position: int,
) -> None:
    out = tmp_path / "set"
    killed_at_teacher(out, photographs, 6)
    damaged = out / "shard-00001.safetensors"
    data = bytearray(damaged.read_bytes())
    data[position] ^= 1
    damaged.write_bytes(data)
    generate(out, photographs)
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "shard-00001.safetensors" in record.getMessage()
    assert files(out) == files(uninterrupted)


def test_a_finished_set_returns_at_once(
    tmp_path: Path, photographs: Path, uninterrupted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = shutil.copytree(uninterrupted, tmp_path / "set")
    before = {p.name: identity(p) for p in out.glob("*.safetensors")}
    teacher = Counting()
    with caplog.at_level(logging.INFO):
        generate(out, photographs, teacher=teacher)
    assert teacher.calls == 1
    assert {p.name: identity(p) for p in out.glob("*.safetensors")} == before
    assert "already complete" in caplog.text


@pytest.mark.parametrize("file", ["shard-00001.safetensors", "index.safetensors"])
def test_a_file_missing_from_a_finished_set_is_made_again(
    tmp_path: Path,
    photographs: Path,
    uninterrupted: Path,
    caplog: pytest.LogCaptureFixture,
    file: str,
) -> None:
    out = shutil.copytree(uninterrupted, tmp_path / "set")
    before = identity(out / "shard-00000.safetensors")
    (out / file).unlink()
    generate(out, photographs)
    assert f"1 files are missing, such as {file}" in caplog.text
    assert files(out) == files(uninterrupted)
    assert identity(out / "shard-00000.safetensors") == before


@pytest.mark.usefixtures("unfinished")
def test_a_failing_disk_keeps_finished_shards(
    tmp_path: Path, photographs: Path, uninterrupted: Path
) -> None:
    out = tmp_path / "set"

    def fill_the_disk() -> None:  # no file of this process may grow beyond 1,000 bytes
        deadline = time.monotonic() + 60
        while not (out / "shard-00000.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.01)  # it may still be written behind the teacher's back
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

    _, message = in_child(lambda: generate(out, photographs, teacher=Counting(4, fill_the_disk)))
    assert message.startswith(f"OutputError: cannot write {out}/shard-00001.safetensors: File too")
    assert [file.name for file in out.glob("shard-*")] == ["shard-00000.safetensors"]
    before = identity(out / "shard-00000.safetensors")
    generate(out, photographs)
    assert files(out) == files(uninterrupted)
    assert identity(out / "shard-00000.safetensors") == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody without rights")
def test_a_directory_without_write_permission(photographs: Path) -> None:
    settings = GenerationSettings(policy(), samples=1, topk=1)
    source = ImageSource(ImageFolder(str(photographs)))

    def run(writable: Path, out: Path) -> None:
        os.setuid(65534)
        with locked(writable):  # it is the permission that stops, not the way there
            pass
        reinforce(source, Ensemble([TinyTeacher()]), out, settings)

    # Not in tmp_path, whose parents only their owner may enter.
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        writable, read_only = Path(place) / "writable", Path(place) / "read-only"
        for directory, mode in ((Path(place), 0o755), (writable, 0o777), (read_only, 0o755)):
            directory.mkdir(exist_ok=True)
            directory.chmod(mode)
        for out in (read_only, read_only / "new"):
            _, message = in_child(lambda out=out: run(writable, out))
            assert message == (
                f"OutputError: cannot write to {out}: Permission denied. Choose a writable "
                f"directory."
            )


@pytest.mark.usefixtures("unfinished")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_stops_and_keeps_finished_shards(tmp_path: Path, workers: int) -> None:
    images = make_photographs(tmp_path / "images")
    damaged = sorted(images.glob("n03/*"))[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(hurt(whole))
    out = tmp_path / "set"
    with pytest.raises(ImageReadError, match=f"'n03/{damaged.name}'"):
        make_set_with(out, images, workers)
    assert (out / "shard-00000.safetensors").exists()
    assert not (out / "manifest.json").exists()
    damaged.write_bytes(whole)
    make_set(out, images)
    assert files(out) == files(make_set(tmp_path / "again", images))


def make_set_with(out: Path, images: Path, workers: int) -> None:
    settings = GenerationSettings(policy(), samples=6, topk=2, batch_size=16, shard_images=5)
    source = ImageSource(ImageFolder(str(images)))
    options = {"workers": workers, "min_agreement": 0}  # which would meet the image first
    reinforce(source, Ensemble([TinyTeacher()]), out, settings, **options)
