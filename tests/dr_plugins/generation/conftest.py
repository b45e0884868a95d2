from __future__ import annotations

from pathlib import Path

import pytest

from dr_plugins.generation import making
from tests.dr_plugins.generation.whole_sets import generate


@pytest.fixture(params=[0, 2], ids=["waiting", "ahead"])
def unfinished(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many answers may be on their way; 2 is what CUDA gets."""
    monkeypatch.setattr(making, "_UNFINISHED", {"cpu": request.param})
    number: int = request.param
    return number


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "set"
    generate(out, photographs)
    return out
