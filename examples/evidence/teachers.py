"""The teachers, their answers, and the shard sets that are made of them; kept on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

import examples.quickstart.models  # noqa: F401 - registers the quickstart's models with timm
from dr_plugins import Ensemble, GenerationSettings, ImageSource, load_teacher, reinforce
from examples.evidence.grid import Training
from examples.evidence.methods import Task
from examples.evidence.training import train
from examples.evidence.views import Stream, load_policy
from examples.quickstart.running import TEACHER

# The shipped one was trained on all 60,000 training images, the others on the student's alone.
TEACHERS = {"shipped": 0, "same-images": 1, "same-images-x3": 3}
_TEACHER_EPOCHS = 60


def teacher_of(run: Training, source: ImageSource, cache: Path) -> Ensemble:
    """Return a run's teacher, which is trained first if it has to be."""
    count = TEACHERS[run.teacher]
    specs = [TEACHER] if not count else [_trained(run, source, cache, i) for i in range(count)]
    return Ensemble([load_teacher(spec) for spec in specs], temperature=run.temperature)


def _trained(run: Training, source: ImageSource, cache: Path, number: int) -> str:
    path = cache / "teachers" / f"{run.images}-{number}.safetensors"
    with _made_once(path):
        if not path.exists():
            # Their seeds are none of the students'.
            own = Training("teacher", run.images, "plain", _TEACHER_EPOCHS, seed=1000 + number)
            model, _ = train(Task(own, source, Ensemble([load_teacher(TEACHER)]), _no_answers))
            _save({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return f"timm:fashion_resnet_teacher@{path}"


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
