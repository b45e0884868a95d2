"""Importing the package, in fresh interpreters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

ROOT = Path(__file__).resolve().parents[2]
STAND_INS = "from tests.d2_ext import stand_ins; stand_ins.install(); "


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STAND_INS + code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("first", ["detectron2", "d2_ext", "detectron2.config"])
def test_detectron2s_variable_adds_the_keys(first: str) -> None:
    code = f"import {first}; from detectron2.config import get_cfg; print(get_cfg().REINFORCED.P)"
    done = run(code, DETECTRON2_ENV_MODULE="d2_ext")
    assert (done.stdout.strip(), done.returncode) == ("0.99", 0), done.stderr


def test_an_import_alone_adds_no_keys() -> None:
    code = (
        "import sys, d2_ext; from detectron2.config import get_cfg; "
        "print('REINFORCED' in get_cfg(), 'timm' in sys.modules)"
    )
    done = run(code, DETECTRON2_ENV_MODULE="")
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_without_detectron2() -> None:
    done = run("import sys; sys.modules['detectron2'] = None; import d2_ext")
    assert done.returncode == 1
    assert "d2_ext needs Detectron2" in done.stderr
    assert "https://github.com/facebookresearch/detectron2" in done.stderr
