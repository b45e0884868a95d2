"""timm's training script with the dataset's name alone, after `dr-plugins enable timm`."""

from __future__ import annotations

import os
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dr_plugins import startup
from tests.timm_ext.test_training import DRIVER, in_a_process, reports
from timm_ext.names import NAMES


@pytest.fixture
def enabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment like this one, in which the hook is enabled."""
    venv.create(tmp_path, symlinks=True)
    (site,) = tmp_path.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text("\n".join(path for path in sys.path if os.path.isdir(path)))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setattr(startup.sysconfig, "get_path", lambda name: str(site))
    startup.enable("timm")


@pytest.mark.usefixtures("enabled")
def test_the_name_alone(data_dir: Path, train: Callable[..., dict[str, Any]]) -> None:
    options = ["--data-dir", str(data_dir), "--num-classes", "3", "--img-size", "32"]
    output = in_a_process(DRIVER, "--dataset", "imagenet-plus?p=1", *options)
    assert reports(output) == [train()]


def test_every_name_is_refused_where_timm_ext_is_broken() -> None:
    assert all(name.endswith("-plus") or name == "reinforced" for name in NAMES)
