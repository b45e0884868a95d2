"""Label errors found by averaged views against cleanlab on one answer: Fashion-MNIST with noise.

A share of the labels is exchanged for other classes. A small residual network learns the noisy
labels, as a user's teacher would, and answers: the images themselves, for cleanlab, and stored
views, for `dr-plugins suspects`. Two ways of training: on all images, whose wrong labels it may
learn by heart, and two networks that each learn one half and answer the other.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from dr_plugins import Ensemble, GenerationSettings, ImageSource, ShardSet, reinforce
from dr_plugins.statistics import average_answers
from dr_plugins.suspects import find_suspects
from examples.evidence.models import to_input
from examples.evidence.training import Stepper
from examples.evidence.views import InMemory, Stream, load_policy
from examples.quickstart.data import Images, load

IMAGES, CLASSES, NOISE, EPOCHS, SAMPLES, SEEDS = 10_000, 10, 0.05, 20, 10, 3
TOP = 0.01
Scores = dict[str, float]


def main(out: Path) -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    rows: dict[str, list[Scores]] = {}
    for seed in tqdm(range(SEEDS), "seeds"):
        for name, scores in _of_seed(seed, out / "data"):
            rows.setdefault(name, []).append(scores)
            print(name, {key: round(value, 4) for key, value in scores.items()}, flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "suspects.json").write_text(json.dumps(rows, indent=1))
    for name, runs in rows.items():
        cells = [_spread([run[key] for run in runs]) for key in runs[0]]
        print(" | ".join([name, *cells]))


def _spread(values: Sequence[float]) -> str:
    return f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f}"


def _of_seed(seed: int, data: Path) -> Iterator[tuple[str, Scores]]:
    images, _ = load(IMAGES // CLASSES, data)
    images, wrong = _exchanged(images, seed)
    source = _source(images, np.arange(IMAGES))
    whole = [np.arange(IMAGES)]
    halves = np.array_split(np.random.default_rng(seed).permutation(IMAGES), 2)
    for training, parts in (("all images", whole), ("the other half", halves)):
        learned = parts[::-1]  # of one part: itself
        teachers = [
            _trained(_source(images, rows), 10 * seed + number)
            for number, rows in enumerate(learned)
        ]
        for name, scores in _compared(source, images, wrong, parts, teachers):
            yield f"{training}: {name}", scores


def _exchanged(images: Images, seed: int) -> tuple[Images, np.ndarray]:
    """The images with wrong labels, uniform over the other classes, and which of them are wrong."""
    rng = np.random.default_rng(seed)
    wrong = np.zeros(len(images), bool)
    wrong[rng.choice(len(images), round(NOISE * len(images)), replace=False)] = True
    shifts = rng.integers(1, CLASSES, len(images))
    labels = np.where(wrong, (images.labels + shifts) % CLASSES, images.labels)
    return Images(images.pixels, labels.astype(np.uint8), images.numbers), wrong


def _source(images: Images, rows: np.ndarray) -> ImageSource:
    some = Images(images.pixels[rows], images.labels[rows], images.numbers[rows])
    return ImageSource(InMemory(some), [f"{row:05}" for row in rows])


class _Teacher(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        return self.network(to_input(views))


def _trained(source: ImageSource, seed: int) -> Ensemble:
    stream, student = Stream(source, seed), Stepper("resnet", len(source), EPOCHS, seed)
    labels = stream.labels()
    for epoch in range(EPOCHS):
        student.learn(stream.views(epoch), labels)
    return Ensemble([_Teacher(student.model)])


def _compared(
    source: ImageSource,
    images: Images,
    wrong: np.ndarray,
    parts: Sequence[np.ndarray],
    teachers: Sequence[Ensemble],
) -> Iterator[tuple[str, Scores]]:
    plain, one, average = (np.zeros((IMAGES, CLASSES)) for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        sets = []
        for number, (rows, teacher) in enumerate(zip(parts, teachers, strict=True)):
            views = Stream(_source(images, rows), 0).unaugmented()
            plain[rows] = torch.cat([teacher(batch) for batch in views.split(500)])
            shards = _reinforced(_source(images, rows), teacher, Path(folder) / str(number))
            numbers = np.array([int(key) for key in shards.keys])
            average[numbers] = _dense(*average_answers(shards, range(len(shards))))
            first = shards.read(np.arange(len(shards)), np.zeros(len(shards), np.int64))
            one[numbers] = _dense(first["ids"], first["probs"])
            sets.append(shards)
        found = [int(suspect.key) for suspect in find_suspects(sets)]
    yield "averaged views", _scored(found, _margins(images.labels, average), wrong)
    for name, probs in (("cleanlab, one view", one), ("cleanlab, the image itself", plain)):
        yield name, _scored(_cleanlab(images.labels, probs), _margins(images.labels, probs), wrong)


def _reinforced(source: ImageSource, teacher: Ensemble, out: Path) -> ShardSet:
    settings = GenerationSettings(
        load_policy("crop"), samples=SAMPLES, topk=CLASSES, probs_dtype="float32", batch_size=250
    )
    reinforce(source, teacher, out, settings)
    return ShardSet(out)


def _dense(classes: np.ndarray, probs: np.ndarray) -> np.ndarray:
    dense = np.zeros((len(classes), CLASSES))
    np.put_along_axis(dense, classes.astype(np.int64), probs, axis=1)
    return dense / dense.sum(1, keepdims=True)


def _margins(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    own = np.take_along_axis(probs, labels[:, None].astype(np.int64), 1)[:, 0]
    others = probs.copy()
    np.put_along_axis(others, labels[:, None].astype(np.int64), -1, 1)
    return own - others.max(1)


def _cleanlab(labels: np.ndarray, probs: np.ndarray) -> list[int]:
    from cleanlab.filter import find_label_issues

    return find_label_issues(
        labels.astype(np.int64),
        probs,
        filter_by="confident_learning",
        return_indices_ranked_by="normalized_margin",
        n_jobs=1,
    ).tolist()


def _scored(found: Sequence[int], margins: np.ndarray, wrong: np.ndarray) -> Scores:
    """How many of the first suspects are wrong, and how well the margin ranks all images."""
    top = round(TOP * len(wrong))
    ranked = wrong[margins.argsort(kind="stable")]
    hits = np.flatnonzero(ranked) + 1
    return {
        "precision at 1 %": float(wrong[found[:top]].mean()),
        "precision": float(wrong[found].mean()),
        "recall": float(wrong[found].sum() / wrong.sum()),
        "precision at 5 %": float(ranked[: int(wrong.sum())].mean()),
        "average precision": float((np.arange(1, len(hits) + 1) / hits).mean()),
    }
