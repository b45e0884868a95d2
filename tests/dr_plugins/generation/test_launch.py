"""Which devices a process has, SIGTERM, and ensembles on several devices."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dr_plugins.errors import TeacherError, WorkerError
from dr_plugins.generation.generate import GenerationSettings, reinforce_part
from dr_plugins.generation.grace import Grace
from dr_plugins.generation.launch import Rank, rank_device, rank_devices
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import open_source
from tests.dr_plugins.generation.whole_sets import Counting
from tests.tiny import TinyTeacher, policy

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
}


def test_ranks_are_those_of_torchrun_alone() -> None:
    rank = Rank.from_environment(TORCHRUN)
    assert rank == Rank(5, 8, 1, 4)
    assert (rank.process.name, rank.process.index, rank.process.count) == ("rank 5", 5, 8)
    assert Rank.from_environment({"RANK": "5", "LOCAL_RANK": "1"}) is None
    for name in ("RANK", "LOCAL_RANK"):
        with pytest.raises(WorkerError, match=name):
            Rank.from_environment({**TORCHRUN, name: ""})


@pytest.mark.parametrize(
    ("name", "local_rank", "cuda", "device"),
    [
        (None, 0, False, "cpu"),
        (None, 2, False, "cpu"),
        (None, 2, True, "cuda:2"),
        ("cuda", 2, True, "cuda:2"),
        ("cuda:0", 2, True, "cuda:0"),
        ("cpu", 2, True, "cpu"),
    ],
)
def test_a_rank_has_its_own_device(
    name: str | None, local_rank: int, cuda: bool, device: str
) -> None:
    assert rank_device(name, local_rank, cuda=cuda) == device


@pytest.mark.parametrize(
    ("names", "local_rank", "devices"),
    [
        (["cuda:0", "cuda:1"], 0, ("cuda:0", "cuda:1")),
        (["cuda:0", "cuda:1"], 3, ("cuda:6", "cuda:7")),
        (["cuda:0", "cuda:0", "cuda:1"], 1, ("cuda:2", "cuda:2", "cuda:3")),
        (["cpu", "cpu"], 1, ("cpu", "cpu")),
    ],
)
def test_the_teachers_of_ranks_have_devices_of_their_own(
    names: list[str], local_rank: int, devices: tuple[str, ...]
) -> None:
    assert rank_devices(names, local_rank) == devices


# --- teachers on several devices ------------------------------------------------------------------


class Noting(TinyTeacher):
    """Notes where its views and its weights are, and answers on that device."""

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        self.found = (views.device, self.weights.device)
        return super().forward(views)


def test_every_teacher_answers_on_its_own_device() -> None:
    teachers = [Noting(seed=0), Noting(seed=1)]
    ensemble = Ensemble(teachers, devices=["cpu", "meta"]).placed(torch.device("cpu"))
    views = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(NotImplementedError, match="meta"):  # has no values to bring back
        ensemble.answerer(2)(views)
    assert [str(device) for teacher in teachers for device in teacher.found] == [
        "cpu", "cpu", "meta", "meta",
    ]  # fmt: skip


def test_answers_do_not_depend_on_the_teachers_devices() -> None:
    views = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    one = Ensemble([TinyTeacher(seed=s) for s in range(3)])
    apart = Ensemble([TinyTeacher(seed=s) for s in range(3)], devices=["cpu"] * 3)
    assert torch.equal(one(views), apart.placed(torch.device("cpu"))(views))


def test_each_teacher_needs_a_device() -> None:
    with pytest.raises(TeacherError, match="1 devices for 2 teachers"):
        Ensemble([TinyTeacher(), TinyTeacher()], devices=["cpu"])


# --- SIGTERM --------------------------------------------------------------------------------------


class TerminatedError(KeyboardInterrupt):
    """What SIGTERM raises here."""


@pytest.fixture
def sigterm() -> Iterator[None]:
    def handle(*_: object) -> None:
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, handle)
    yield
    signal.signal(signal.SIGTERM, before)


def terminate_all() -> None:
    for process in (*(child.pid for child in active_children()), os.getpid()):
        os.kill(process, signal.SIGTERM)


def make(out: Path, images: Path, teacher: nn.Module, **options: Any) -> Any:
    # Three shards of four batches each; one batch is one image.
    settings = GenerationSettings(policy(), samples=4, topk=2, batch_size=4, shard_images=4)
    options = {"min_agreement": 0, "check_images": None, **options}
    return reinforce_part(open_source(str(images)), Ensemble([teacher]), out, settings, **options)


@pytest.mark.usefixtures("sigterm")
@pytest.mark.parametrize(
    ("grace", "asked", "stored"),
    [
        (1000, 1 + 8, 2),  # the second shard is finished
        (1e-9, 1 + 6, 1),  # given up after the batch at hand
        (0, 1 + 6, 1),  # at once
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_finishes_the_shard_or_gives_it_up(
    tmp_path: Path, photographs: Path, grace: float, asked: int, stored: int, workers: int
) -> None:
    teacher = Counting(1 + 6, terminate_all)
    with pytest.raises(TerminatedError):
        make(tmp_path, photographs, teacher, grace=grace, workers=workers)
    assert teacher.calls == asked
    assert len(list(tmp_path.glob("shard-*"))) == stored
    assert not list(tmp_path.glob("*.tmp"))
    assert not list(tmp_path.glob("failed-*"))
    assert make(tmp_path, photographs, TinyTeacher()) is not None


@pytest.mark.usefixtures("sigterm")
def test_sigterm_in_the_last_shard_is_not_forgotten(tmp_path: Path, photographs: Path) -> None:
    with pytest.raises(TerminatedError):
        make(tmp_path, photographs, Counting(1 + 12, terminate_all), grace=1000)
    assert len(list(tmp_path.glob("shard-*"))) == 3


@pytest.mark.usefixtures("sigterm")
def test_without_work_sigterm_is_not_delayed() -> None:
    grace = Grace(1000)
    with grace.delaying():
        pass
    with pytest.raises(TerminatedError):
        os.kill(os.getpid(), signal.SIGTERM)
