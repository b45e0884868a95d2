from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from dr_plugins import ReinforcedDataset
from dr_plugins.errors import WorkerError
from dr_plugins.generation.generate import GenerationSettings, reinforce
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.generation.views import ViewBatches
from dr_plugins.images.sources import open_source
from dr_plugins.utils import workers
from tests.tiny import TinyTeacher, policy

# What PyTorch raises, in a thread of the worker that pickles its batches.
NO_ROOM = "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device"


class Unsendable:
    """A batch for which there is no room."""

    def __init__(self, *_: object) -> None:
        pass

    def __reduce__(self) -> Any:
        raise RuntimeError(NO_ROOM)


def test_a_batch_that_training_cannot_get_is_an_error(
    shard_sets: Callable[..., Path], photographs: Path
) -> None:
    train = ReinforcedDataset(open_source(str(photographs)), shard_sets())
    loader = DataLoader(train, 2, num_workers=2, collate_fn=Unsendable, timeout=100)
    with pytest.raises(WorkerError, match=r"/dev/shm.*--shm-size.*workers"):
        list(loader)


def test_a_batch_that_generation_cannot_get_is_an_error(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ViewBatches, "_join", Unsendable)
    settings = GenerationSettings(policy(), samples=2, topk=1, batch_size=4)
    source = open_source(str(photographs))
    with pytest.raises(WorkerError, match=r"/dev/shm.*--shm-size.*--workers 0"):
        reinforce(source, Ensemble([TinyTeacher()]), tmp_path, settings, workers=1)


def test_other_errors_do_not_name_shared_memory(
    shard_sets: Callable[..., Path], photographs: Path
) -> None:
    train = ReinforcedDataset(open_source(str(photographs)), shard_sets())
    loader = DataLoader(train, 2, num_workers=1, collate_fn=lambda _: lambda: 0, timeout=100)
    with pytest.raises(WorkerError, match="local object") as error:
        list(loader)
    assert "/dev/shm" not in str(error.value)


def test_too_many_open_files_have_another_remedy() -> None:
    error = RuntimeError("unable to open shared memory object </torch_1>: Too many open files (24)")
    with pytest.raises(WorkerError, match="ulimit -n"), workers.naming_shared_memory():
        raise error


def test_collating_without_room_says_what_to_do(
    shard_sets: Callable[..., Path], photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(NO_ROOM)

    train = ReinforcedDataset(open_source(str(photographs)), shard_sets())
    samples = train.__getitems__([0, 1])
    monkeypatch.setattr("dr_plugins.training.batch.default_collate", fail)
    with pytest.raises(WorkerError, match="--shm-size"):
        train.collate(samples)


MEBIBYTE = 1 << 20


@pytest.mark.parametrize(
    ("processes", "batches", "fits"),
    [(0, 100, True), (3, 100, True), (4, 100, False), (4, 7, True), (100, 8, False)],
)
def test_room_for_the_workers_batches_is_there_before_they_start(
    monkeypatch: pytest.MonkeyPatch, processes: int, batches: int, fits: bool
) -> None:
    monkeypatch.setattr(workers, "_free_bytes", lambda: 70 * MEBIBYTE)
    if fits:
        workers.check_room(processes, batches, 10 * MEBIBYTE)
    else:
        with pytest.raises(WorkerError, match=r"10 MiB in /dev/shm.* 70 MiB"):
            workers.check_room(processes, batches, 10 * MEBIBYTE)


def test_generation_checks_the_room_for_its_views(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_free_bytes", lambda: 5 * 4 * 3 * 24 * 24)  # but no records
    settings = GenerationSettings(policy(), samples=9, topk=1, batch_size=4)
    ensemble, source = Ensemble([TinyTeacher()]), open_source(str(photographs))
    with pytest.raises(WorkerError, match="--workers 0"):
        reinforce(source, ensemble, tmp_path, settings, workers=2)
    reinforce(source, ensemble, tmp_path, settings, workers=1)


def test_systems_without_dev_shm_are_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_SHARED_MEMORY", str(tmp_path / "nowhere"))
    workers.check_room(8, 1000, 1 << 50)


class Large(Dataset[torch.Tensor]):
    """For the process below."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> torch.Tensor:
        workers.report_lost_batches()
        return torch.ones(8 * MEBIBYTE, dtype=torch.uint8)


@pytest.mark.slow
def test_docker_s_shared_memory_is_too_small() -> None:
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    if os.getuid() or subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False).returncode:
        pytest.skip("only root may mount")
    script = (
        "from torch.utils.data import DataLoader\n"
        "from tests.dr_plugins.utils.test_workers import Large\n"
        "for batch in DataLoader(Large(), 2, num_workers=4, collate_fn=list, timeout=100): pass"
    )
    command = f"{mount} && exec {sys.executable} -c '{script}'"
    run = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, text=True)
    assert run.returncode == 1
    assert "WorkerError" in run.stderr
    assert "--shm-size" in run.stderr
