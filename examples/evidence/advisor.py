"""How well measurements of a teacher, taken before generation, predict its student's accuracy."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dr_plugins import ImageSource
from dr_plugins.comparison import compare_teachers
from dr_plugins.comparison.scores import rank_correlation
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
_IMAGES = {"train": "the student's training images", "test": "2,000 test images"}
Measured = dict[str, dict[str, dict[str, float]]]


def measure(cache: Path) -> Measured:
    """Return each teacher's metrics on training and on test images, by teacher and kind of images.

    Args:
        cache: Of the teachers; those that are missing are trained.
    """
    runs = [run for run in EXPERIMENTS["advisor"] if isinstance(run, Training)]
    train = source_of(runs[0].images, cache)
    test = load(1, "")[1].first_of_each_class(200)
    sources = {
        "train": train,
        "test": ImageSource(InMemory(test), [f"test/{number}" for number in test.numbers]),
    }
    found: Measured = {run.teacher: {} for run in runs}
    teachers = {run.teacher: teacher_of(run, train, cache) for run in runs}
    for kind, source in sources.items():
        # One after the other: pairs are not of interest here.
        for name, teacher in teachers.items():
            comparison = compare_teachers(source, {name: teacher}, load_policy("crop"), samples=4)
            (candidate,) = comparison.candidates
            found[name][kind] = {
                **candidate.metrics,
                "entropy": candidate.entropy,
                "spread": candidate.spread,
            }
    return found


def write_section(runs: Path, measurements: Path, page: Path) -> None:
    """Put tables of measurements and students between the marks of a page.

    Args:
        runs: Folder of the runs.
        measurements: JSON file of `measure`.
        page: The Markdown file.
    """
    measured = json.loads(measurements.read_text())
    put_between_marks(page, MARKS, "\n".join(_section(Results.load(runs), measured)))


def _section(results: Results, measured: Mapping[str, Any]) -> Iterator[str]:
    runs = [run for run in EXPERIMENTS["advisor"] if isinstance(run, Training)]
    students = {run.teacher: results.sample(run, "accuracy") for run in runs}
    ready = {name: each.mean for name, each in students.items() if len(each)}
    head = ["teacher", *(title for title, _ in _METRICS.values()), "student, %"]
    yield markdown_table(
        head,
        (
            [
                run.teacher,
                *(
                    f"{factor * measured[run.teacher]['test'][name]:.3g}"
                    for name, (_, factor) in _METRICS.items()
                ),
                students[run.teacher].text(),
            ]
            for run in runs
        ),
    )
    yield ""
    yield (
        f"Metrics on {_IMAGES['test']}. Spearman's rank correlation of each with the student's "
        f"accuracy, over the {len(ready)} teachers whose students there are:"
    )
    yield ""
    rows = []
    for name, (title, _) in _METRICS.items():
        cells = [title.partition(",")[0]]
        for kind in _IMAGES:
            values = np.array([measured[teacher][kind][name] for teacher in ready])
            found = rank_correlation(values, np.array(list(ready.values())))
            cells.append("–" if math.isnan(found) else f"{found:+.2f}")
        rows.append(cells)
    yield markdown_table(["metric", *(f"on {images}" for images in _IMAGES.values())], rows)
