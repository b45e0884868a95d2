"""How well measurements of a teacher, taken before generation, predict its student's accuracy."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dr_plugins import ImageSource
from dr_plugins.comparison import compare_teachers, draw, rank_correlation
from examples.evidence.grid import EXPERIMENTS, Training
from examples.evidence.report import markdown_table, put_between_marks
from examples.evidence.results import Results
from examples.evidence.teachers import teacher_of
from examples.evidence.views import InMemory, load_policy, source_of
from examples.quickstart.data import load

MARKS = ("<!-- advisor:", "<!-- end of advisor")
_METRICS = {  # title and factor
    "top1": ("top-1, %", 100),
    "nll": ("NLL, nats", 1),
    "ece": ("ECE, %", 100),
    "entropy": ("entropy, nats", 1),
    "spread": ("spread, nats", 1),
}
_IMAGES = {"train": "the student's training images", "test": "1,000 test images"}
_ROWS = [run for run in EXPERIMENTS["advisor"] if isinstance(run, Training)]
Measured = dict[str, dict[str, dict[str, float]]]


def update(runs: Path, measurements: Path, cache: Path) -> None:
    """Measure the teachers that have students and were not measured before.

    Args:
        runs: Folder of the runs.
        measurements: JSON file: metrics by teacher and kind of images.
        cache: Of the teachers.
    """
    measured: Measured = json.loads(measurements.read_text()) if measurements.exists() else {}
    results = Results.load(runs)
    for run in _ROWS:
        if run.teacher not in measured and len(results.sample(run, "accuracy")):
            measured[run.teacher] = _measure(run, cache)
            measurements.write_text(json.dumps(measured, indent=1) + "\n")


def _measure(run: Training, cache: Path) -> dict[str, dict[str, float]]:
    train = source_of(run.images, cache)
    test = load(1, "")[1].first_of_each_class(100)
    sources = {
        "train": train,
        "test": ImageSource(InMemory(test), [f"test/{number}" for number in test.numbers]),
    }
    teachers = {run.teacher: teacher_of(run, train, cache)}
    found = {}
    for kind, source in sources.items():
        comparison = compare_teachers(source, teachers, load_policy("crop"), samples=2)
        (candidate,) = comparison.candidates
        own = {"entropy": candidate.entropy, "spread": candidate.spread}
        found[kind] = {name: round(each, 5) for name, each in {**candidate.metrics, **own}.items()}
    return found


def draw_some(path: Path, cache: Path) -> None:
    """Draw the comparison of three teachers on the training images, as `compare-teachers` does.

    Args:
        path: The PNG file.
        cache: Of the teachers.
    """
    runs = [run for run in _ROWS if run.teacher in ("shipped", "same-images", "resnet-10000")]
    train = source_of(runs[0].images, cache)
    teachers = {run.teacher: teacher_of(run, train, cache) for run in runs}
    draw(compare_teachers(train, teachers, load_policy("crop"), samples=4), path)


def write_section(runs: Path, measurements: Path, page: Path) -> None:
    """Put tables of measurements and students between the marks of a page.

    Args:
        runs: Folder of the runs.
        measurements: JSON file of `update`.
        page: The Markdown file.
    """
    measured = json.loads(measurements.read_text())
    put_between_marks(page, MARKS, "\n".join(_section(Results.load(runs), measured)))


def _section(results: Results, measured: Mapping[str, Any]) -> Iterator[str]:
    students = {run.teacher: results.sample(run, "accuracy") for run in _ROWS}
    ready = {name: students[name].mean for name in measured}

    def cells(teacher: str) -> list[str]:
        if teacher not in measured:
            return ["pending"] * len(_METRICS)
        metrics = measured[teacher]["test"]
        return [f"{factor * metrics[name]:.3g}" for name, (_, factor) in _METRICS.items()]

    head = ["teacher", *(title for title, _ in _METRICS.values()), "student, %"]
    yield markdown_table(
        head, ([name, *cells(name), student.text()] for name, student in students.items())
    )
    yield ""
    yield (
        f"Metrics on {_IMAGES['test']}. Spearman's rank correlation of each with the student's "
        f"accuracy, over the {len(ready)} teachers whose students there are:"
    )
    yield ""
    rows = []
    for name, (title, _) in _METRICS.items():
        row = [title.partition(",")[0]]
        for kind in _IMAGES:
            values = np.array([measured[teacher][kind][name] for teacher in ready])
            found = rank_correlation(values, np.array(list(ready.values())))
            row.append("–" if math.isnan(found) else f"{found:+.2f}")
        rows.append(row)
    yield markdown_table(["metric", *(f"on {images}" for images in _IMAGES.values())], rows)
