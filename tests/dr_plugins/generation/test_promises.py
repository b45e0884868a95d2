"""What generation promises of seeds, devices and the disk, where a fake can show it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dr_plugins import randomness
from dr_plugins.errors import TeacherError, WorkerError
from dr_plugins.generation import making, views
from dr_plugins.generation.background import Background
from dr_plugins.generation.predictor import Prediction, Predictor
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.generation.view_maker import ReadyViews
from dr_plugins.generation.views import ViewBatch, ViewBatches, ViewPlan
from dr_plugins.images.sources import ImageSource
from dr_plugins.records import RecordLayout, target_fields
from dr_plugins.shards.address import located
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.training import dataset
from dr_plugins.utils.workers import alive
from tests.tiny import policy

# --- seeds ----------------------------------------------------------------------------------------


def made(name: str, seed: int) -> np.ndarray:
    """The records of two images, as workers draw them."""
    images = [(Image.new("RGB", (60, 40 + i)), i) for i in range(12)]
    source = ImageSource(images, keys=[f"k{i:02d}" for i in range(12)])
    small = policy(name)
    layout = RecordLayout((*small.fields, *target_fields(1, 12)))
    keys, plan = KeyIndex.build(source.keys), ViewPlan(12, 3, 2, 6)
    batch = ViewBatches(source, keys, plan, small, layout, seed)[1, 0]
    assert isinstance(batch, ViewBatch)
    return batch.records.numpy().view(layout.dtype)[:, 0]


def test_what_a_seed_means_is_pinned() -> None:
    # Other numbers here mean that every set made from now on has other views.
    records = made("randaug_mixing", 7)
    assert records["crop"][:3].tolist() == [[8, 6, 34, 43], [2, 15, 39, 45], [5, 31, 27, 28]]
    assert records["flip"][:3].tolist() == [1, 0, 0]
    assert records["ops"][:3].tolist() == [[4, 11], [132, 12], [10, 8]]
    assert records["partner"].tolist() == [4294967295, 11, 5, 4294967295, 9, 3]


def test_another_seed_gives_other_views() -> None:
    one, other = made("randaug_mixing", 7), made("randaug_mixing", 8)
    assert (one["crop"] != other["crop"]).any(1).all()


def test_streams_are_not_shared() -> None:
    # Views of a set, partners of its images, and plain views of training.
    streams = [0, views._PARTNER_STREAM, dataset._PLAIN_STREAM]
    assert streams == [0, 2, 1]
    draws = [randomness.image_generator(3, 5, 0, stream).random() for stream in streams]
    assert len(set(draws)) == 3
    assert randomness.image_generator(3, 5, 0).random() == draws[0]


# --- devices --------------------------------------------------------------------------------------


class Zeros(nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(batch), 4, device=batch.device)


def test_answers_are_not_waited_for() -> None:
    # A meta tensor has no values: whoever asks for one, as `if` or `float` do, fails.
    ensemble = Ensemble([Zeros(), Zeros()], temperature=2)
    blank = torch.empty(5, 3, 8, 8, dtype=torch.uint8, device="meta")
    assert ensemble.answerer(5)(blank).shape == (5, 4)
    assert Predictor(ensemble, 4, 2, 5).probs(blank).shape == (5, 4)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        ensemble(blank)


class Event:
    """Stands for CUDA's."""

    def __init__(self, log: list[str], then: Any = None) -> None:
        self.log, self.then = log, then

    def synchronize(self) -> None:
        self.log.append("waited")
        if self.then is not None:
            self.then.fill_(False)


def test_an_answer_is_looked_at_only_when_its_copies_are_complete() -> None:
    log: list[str] = []
    finite = torch.tensor(True)
    nothing: Any = None
    answer = Prediction(nothing, {}, nothing, finite, Event(log, finite))  # type: ignore[arg-type]
    with pytest.raises(TeacherError, match="finite"):
        answer.wait()
    assert log == ["waited"]


def test_views_are_taken_after_those_who_make_them(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[object] = []

    class Stream:
        def wait_event(self, event: object) -> None:
            log.append(event)

    class Views:
        device = torch.device("cuda")

        def record_stream(self, stream: object) -> None:
            log.append(stream)

    stream = Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    ReadyViews(Views(), "made").take()  # type: ignore[arg-type]
    assert log == ["made", stream]


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda", True)])
def test_batches_for_a_gpu_are_pinned(device: str, pinned: bool) -> None:
    class Batches(list):  # type: ignore[type-arg]
        batch_bytes = 0

    loader = making.view_loader(Batches([1]), [0], 0, torch.device(device))  # type: ignore[arg-type]
    assert (loader.pin_memory, loader.batch_size) == (pinned, None)


# --- deaths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), EOFError("gone")])
def test_a_connection_that_a_dead_worker_leaves_is_a_typed_error(error: Exception) -> None:
    def batches() -> Any:
        yield 1
        raise error

    found = alive(batches())
    assert next(found) == 1
    with pytest.raises(WorkerError, match="gone"):
        next(found)


def test_other_errors_of_batches_are_not_called_dead_workers() -> None:
    with pytest.raises(ZeroDivisionError):
        list(alive(1 / n for n in (1, 0)))


def test_errors_after_the_last_call_are_not_swallowed() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Background(depth=3) as background:
        background.call(fail)


# --- the disk -------------------------------------------------------------------------------------


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def noted(descriptor: int) -> None:
        done.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        assert Path(source).read_bytes() == b"content"  # not in Python's buffer
        done.append(("replace", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", renamed)
    located(tmp_path / "file").write([b"con", b"tent"])
    assert done == [("fsync", "file.tmp"), ("replace", "file"), ("fsync", tmp_path.name)]
