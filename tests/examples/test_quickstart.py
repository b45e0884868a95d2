"""The quickstart from beginning to end, as small as it can be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("timm")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_it_reinforces_trains_and_reports(tmp_path: Path) -> None:
    options = ("--images", "70", "--epochs", "1", "--seeds", "1", "--samples", "2")
    done = subprocess.run(
        [sys.executable, "-m", "examples.quickstart", "--out", str(tmp_path), *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "verified: 70 views replay bit for bit" in done.stdout
    runs = json.loads((tmp_path / "results.json").read_text())
    assert [(run["name"], run["seed"]) for run in runs] == [("plain", 0), ("reinforced", 0)]
    for run in runs:
        ((epoch, accuracy, error),) = run["history"]
        assert epoch == 1
        assert 0 < accuracy < 1
        assert 0 <= error <= 1
    for picture in ("accuracy.png", "reinforcements.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
