from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.data.make_golden import HERE


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A copy of a golden set, to be damaged."""
    return shutil.copytree(HERE / "golden-all", tmp_path / "own")
