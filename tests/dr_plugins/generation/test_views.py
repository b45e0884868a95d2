from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder

from dr_plugins.errors import WorkerError
from dr_plugins.generation.generate import GenerationSettings, reinforce
from dr_plugins.generation.readable import find_unreadable
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.generation.views import ViewBatch, ViewBatches, ViewPlan
from dr_plugins.images.sources import ImageSource
from dr_plugins.records import RecordLayout, target_fields
from dr_plugins.shards.key_index import KeyIndex
from tests.tiny import TinyTeacher, make_set, policy


@given(
    images=st.integers(1, 40),
    samples=st.integers(1, 9),
    shard_images=st.integers(1, 12),
    batch_size=st.integers(1, 30),
)
def test_batches_cover_every_view_once(
    images: int, samples: int, shard_images: int, batch_size: int
) -> None:
    plan = ViewPlan(images, samples, shard_images, batch_size)
    for shard in range(plan.shards):
        views = [v for n in range(plan.batches(shard)) for v in plan.batch(shard, n)]
        assert views == list(range(len(plan.rows(shard)) * samples))
    assert [row for shard in range(plan.shards) for row in plan.rows(shard)] == list(range(images))


@pytest.mark.parametrize("shards", [[0, 1, 2], [2, 0]])
def test_batches_of_some_shards(photographs: Path, shards: list[int]) -> None:
    source = ImageSource(ImageFolder(str(photographs)))
    small, plan = policy("rrc"), ViewPlan(12, 3, 5, 4)  # shards of 5, 5 and 2 images
    layout = RecordLayout((*small.fields, *target_fields(1, 3)))
    batches = ViewBatches(source, KeyIndex.build(source.keys), plan, small, layout, 0)
    made = [batches[s, b] for s in shards for b in range(plan.batches(s))]
    assert all(isinstance(batch, ViewBatch) for batch in made)
    views = [(b.shard, b.first + i) for b in made for i in range(len(b.records))]  # type: ignore[union-attr]
    assert views == [(s, v) for s in shards for v in range(len(plan.rows(s)) * 3)]


def test_a_dead_worker_is_a_typed_error(tmp_path: Path) -> None:
    class Deadly(list):  # type: ignore[type-arg]
        def __getitem__(self, index: object) -> object:
            if index == 5 and os.getpid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(index)  # type: ignore[index]

    parent = os.getpid()
    images = Deadly([(Image.new("RGB", (30, 30), (i, i, i)), i % 3) for i in range(8)])
    source = ImageSource(images, keys=[f"k{i}" for i in range(8)])
    settings = GenerationSettings(policy("rrc"), samples=2, topk=1, batch_size=2, shard_images=2)
    with pytest.raises(WorkerError):
        find_unreadable(source, workers=1)
    with pytest.raises(WorkerError, match="same command"):
        reinforce(
            source, Ensemble([TinyTeacher()]), tmp_path, settings,
            workers=1, min_agreement=0, check_images=None,
        )  # fmt: skip
    assert (tmp_path / "shard-00000.safetensors").exists()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed.", WorkerError),
        ("CUDA error: out of memory", RuntimeError),
    ],
)
def test_a_death_is_noticed_wherever_pytorch_tells_of_it(
    tmp_path: Path, photographs: Path, message: str, kind: type[Exception]
) -> None:
    class Interrupted(TinyTeacher):
        def forward(self, views: torch.Tensor) -> torch.Tensor:
            if len(views) > 2:
                raise RuntimeError(message)  # PyTorch's handler of SIGCHLD raises anywhere
            return super().forward(views)

    with pytest.raises(kind, match=re.escape(message)):
        make_set(tmp_path / "set", photographs, teacher=Interrupted())
