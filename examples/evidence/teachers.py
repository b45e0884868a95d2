"""The teachers, their answers, and the shard sets that are made of them; kept on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import nn

import examples.quickstart.models  # noqa: F401 - registers the quickstart's models with timm
from dr_plugins import Ensemble, GenerationSettings, ImageSource, load_teacher, reinforce
from examples.evidence.grid import Training
from examples.evidence.methods import Task
from examples.evidence.models import RECIPES, to_input
from examples.evidence.training import train
from examples.evidence.views import Stream, load_policy, source_of
from examples.quickstart.running import TEACHER


@dataclass(frozen=True)
class Lessons:
    """How a teacher is trained.

    Attributes:
        model: Of `models.RECIPES`.
        images: Training images, the student's among them; None means the student's alone.
        method: ``"plain"`` or ``"smoothing"``.
        epochs: Passes over the images.
        networks: How many form an ensemble.
    """

    model: str = "teacher"
    images: int | None = None
    method: str = "plain"
    epochs: int = 60
    networks: int = 1


# The shipped one was trained by the quickstart, on all 60,000 training images.
TEACHERS: Mapping[str, Lessons | None] = {
    "shipped": None,
    "same-images": Lessons(),
    "same-images-x3": Lessons(networks=3),
    "resnet-2000": Lessons("resnet", 2000),
    "resnet-10000": Lessons("resnet", 10_000, epochs=20),
    "resnet-10000-smoothing": Lessons("resnet", 10_000, "smoothing", epochs=20),
    "mobilenet-2000": Lessons("mobilenet", 2000),
    "vit-10000": Lessons("vit", 10_000, epochs=20),
}


class _Classifier(nn.Module):
    """A network as a teacher: it normalises the views itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        return self.network(to_input(views))


def teacher_of(run: Training, source: ImageSource, cache: Path) -> Ensemble:
    """Return a run's teacher, which is trained first if it has to be."""
    lessons = TEACHERS[run.teacher]
    if lessons is None:
        teachers = [load_teacher(TEACHER)]
    else:
        if lessons.images is not None:
            source = source_of(lessons.images, cache)
        teachers = [_trained(lessons, source, cache, i) for i in range(lessons.networks)]
    return Ensemble(teachers, temperature=run.temperature)


def _trained(lessons: Lessons, source: ImageSource, cache: Path, number: int) -> nn.Module:
    # Its seeds are none of the students'.
    own = Training(lessons.model, len(source), lessons.method, lessons.epochs, seed=1000 + number)
    path = cache / "teachers" / f"{own.name}.safetensors"
    with _made_once(path):
        if not path.exists():
            model, _ = train(Task(own, source, Ensemble([load_teacher(TEACHER)]), _no_answers))
            _save({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    network = RECIPES[lessons.model].build()
    network.load_state_dict(load_file(path))
    return _Classifier(network)


def _no_answers(epoch: int) -> torch.Tensor:
    raise AssertionError("plain training asks no teacher")


def remembered(
    run: Training, stream: Stream, teacher: Ensemble, cache: Path
) -> Callable[[int], torch.Tensor]:
    """Return a function from an epoch to the teacher's answers to its views.

    A teacher that does not learn answers the same views the same way, so runs that share a stream
    share its answers: each is computed once, by whichever run comes first.
    """
    folder = cache / "answers" / f"{run.images}-{run.teacher}-s{run.seed}"

    def answers(epoch: int) -> torch.Tensor:
        path = folder / f"{epoch}.safetensors"
        if not path.exists():
            probs = torch.cat([teacher(views) for views in stream.views(epoch).split(250)])
            _save({"probs": probs}, path)
        return load_file(path)["probs"]

    return answers


def make_shards(run: Training, source: ImageSource, teacher: Ensemble, cache: Path) -> Path:
    """Reinforce the images with a run's settings, unless that was done."""
    name = f"{run.images}-{run.policy}-{run.samples}x{run.topk}-T{run.temperature}-{run.teacher}"
    settings = GenerationSettings(
        load_policy(run.policy), samples=run.samples, topk=run.topk, batch_size=250
    )
    out = cache / "shards" / name
    with _made_once(out):
        reinforce(source, teacher, out, settings, min_agreement=0)
    return out


def _made_once(path: Path) -> FileLock:
    """While one process makes a file or a folder, others that need it wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".")
    os.close(handle)
    save_file(tensors, part)
    os.replace(part, path)
