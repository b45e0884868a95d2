"""Resuming: the same teacher, the same images?"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dr_plugins.errors import ImageChangedError, SettingsMismatchError, TeacherError
from dr_plugins.generation.generate import GenerationSettings, reinforce
from dr_plugins.generation.resuming import asked_again
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import open_source
from tests.tiny import TinyTeacher, make_photographs, photograph, policy


class Remote(nn.Module):
    """Its network is not in its ``state_dict``, as that of an ONNX or remote teacher."""

    def __init__(
        self, seed: int = 0, *, prepared: Any = None, noise: float = 0.0, scale: float = 1.0
    ) -> None:
        super().__init__()
        self._network = [TinyTeacher(seed=seed)]
        self._prepared, self._noise = prepared or (lambda views: views), noise
        self._scale = 0.1 * scale  # answers that are not one-hot

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        logits = self._network[0](self._prepared(views))
        # Bounded, so that no draw is larger than a test means.
        return self._scale * logits + self._noise * (2 * torch.rand_like(logits) - 1)


class EndedError(Exception):
    """Stands for an interruption."""


class Interrupted(Remote):
    def forward(self, views: torch.Tensor) -> torch.Tensor:
        self.calls = getattr(self, "calls", -1) + 1
        if self.calls > 4:
            raise EndedError
        return super().forward(views)


def generate(out: Path, images: Path, teacher: nn.Module, **options: Any) -> None:
    settings = GenerationSettings(policy(), samples=6, topk=2, batch_size=16, shard_images=5)
    ensemble = Ensemble([teacher], autocast=options.pop("autocast", None))
    reinforce(open_source(str(images)), ensemble, out, settings, **options)


@pytest.fixture
def interrupted(tmp_path: Path, photographs: Path) -> Path:
    """One of three shards is finished."""
    with pytest.raises(EndedError):
        generate(tmp_path / "set", photographs, Interrupted())
    return tmp_path / "set"


@pytest.mark.parametrize("views_on", ["workers", "device"])
def test_the_same_teacher_resumes(interrupted: Path, photographs: Path, views_on: str) -> None:
    # Ten times what other numbers of threads change.
    generate(interrupted, photographs, Remote(noise=5e-5), views_on=views_on)
    assert (interrupted / "manifest.json").exists()


@pytest.mark.parametrize(
    "teacher",
    [
        Remote(seed=1),
        Remote(prepared=lambda views: views.flip(1)),  # BGR
        Remote(prepared=lambda views: views.flip(-1)),
        Remote(prepared=lambda views: (views * 0.9).round()),
        Remote(scale=1.001),
    ],
)
@pytest.mark.parametrize("views_on", ["workers", "device"])
def test_another_teacher_is_refused(
    interrupted: Path, photographs: Path, teacher: nn.Module, views_on: str
) -> None:
    before = sorted(interrupted.glob("shard-*"))
    with pytest.raises(SettingsMismatchError, match=str(interrupted)):
        generate(interrupted, photographs, teacher, views_on=views_on)
    assert sorted(interrupted.glob("shard-*")) == before


def test_a_teacher_that_draws_at_random_is_refused(tmp_path: Path, photographs: Path) -> None:
    with pytest.raises(TeacherError, match="random"):
        generate(tmp_path / "set", photographs, Remote(noise=0.1))
    assert not list(tmp_path.rglob("shard-*"))


@pytest.mark.parametrize("change", [lambda views: views * 0.9, lambda views: views.flip(-1)])
def test_a_teacher_that_differs_from_call_to_call_is_refused(
    tmp_path: Path, photographs: Path, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    turns = itertools.cycle([lambda views: views, change])
    with pytest.raises(TeacherError, match="random"):
        generate(tmp_path / "set", photographs, Remote(prepared=lambda views: next(turns)(views)))
    assert not list(tmp_path.rglob("shard-*"))


def test_bfloat16_may_answer_less_exactly(tmp_path: Path, photographs: Path) -> None:
    with pytest.raises(EndedError):
        generate(tmp_path, photographs, Interrupted(), autocast=torch.bfloat16)
    generate(tmp_path, photographs, Remote(noise=0.05), autocast=torch.bfloat16)


def test_images_that_changed_under_their_names_are_refused(tmp_path: Path) -> None:
    images = make_photographs(tmp_path / "images")
    with pytest.raises(EndedError):
        generate(tmp_path / "set", images, Interrupted())
    for number, file in enumerate(sorted(images.rglob("*.JPEG"))):
        photograph(500 + number, 40, 56).save(file)
    with pytest.raises(ImageChangedError, match="n01/"):
        generate(tmp_path / "set", images, Remote())


@pytest.mark.parametrize(
    ("finished", "asked"),
    [([3], [3]), ([0, 2, 5], [0, 2, 5]), (list(range(100)), [0, 33, 66, 99])],
)
def test_a_few_finished_shards_are_asked_about(finished: list[int], asked: list[int]) -> None:
    assert asked_again(finished) == asked


@pytest.mark.parametrize("classes", [2, 4])
def test_another_number_of_classes_later_is_refused(
    tmp_path: Path, photographs: Path, classes: int
) -> None:
    counts = itertools.chain([3] * 4, itertools.repeat(classes))

    class Moody(nn.Module):
        def forward(self, views: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(views), next(counts))

    with pytest.raises(TeacherError, match=rf"{classes} classes.* 3 "):
        generate(tmp_path / "set", photographs, Moody())
    assert (tmp_path / "set" / "shard-00000.safetensors").exists()
