"""Tables that compare measurements of teachers with their students."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("timm")
pytest.importorskip("matplotlib")

from examples.evidence import advisor
from examples.evidence.grid import EXPERIMENTS, Training
from examples.evidence.teachers import TEACHERS

ROWS = [run for run in EXPERIMENTS["advisor"] if isinstance(run, Training)]


def test_every_teacher_is_in_the_experiment() -> None:
    assert [run.teacher for run in ROWS] == list(TEACHERS)


def test_the_section_has_correlations_over_the_students_that_are_there(tmp_path: Path) -> None:
    """The better the teacher, the better its student; its NLL on training images says nothing."""
    measured = {}
    for rank, run in enumerate(ROWS):
        names = ("top1", "nll", "ece", "entropy", "spread")
        test = dict.fromkeys(names, 0.5 - rank / 20) | {"top1": 0.5 + rank / 20}
        if rank < 6:
            measured[run.teacher] = {"test": test, "train": {**test, "nll": 0.1}}
            content = {"kind": "training", "config": asdict(run), "test": {"accuracy": rank / 10}}
            (tmp_path / f"{rank}.json").write_text(json.dumps(content))
    measurements, page = tmp_path / "teachers.txt", tmp_path / "page.md"
    measurements.write_text(json.dumps(measured))
    page.write_text(f"a\n{advisor.MARKS[0]} -->\nold\n{advisor.MARKS[1]} -->\nb\n")
    advisor.write_section(tmp_path, measurements, page)
    text = page.read_text()
    assert "old" not in text
    assert "over the 6 teachers" in text
    assert "| top-1 | +1.00 | +1.00 |" in text
    assert "| NLL | – | -1.00 |" in text
    assert f"| {ROWS[5].teacher} | 75 |" in text
    assert "pending" in text
