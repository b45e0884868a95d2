"""``dr-plugins explore``."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dr_plugins.cli.test_main import error_of, run

pytest.importorskip("uvicorn")
requests = pytest.importorskip("requests")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_end(
    photographs: Path,
    shard_sets: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    seen = []

    def look(address: str) -> None:
        try:
            seen.append((address, requests.get(f"{address}api/set", timeout=30).json()))
            seen.append(requests.get(f"{address}thumbnails/0.jpg", timeout=30).status_code)
        finally:
            os.kill(os.getpid(), number)

    monkeypatch.setattr("webbrowser.open", look)
    result = run("explore", shard_sets(), "--images", photographs)
    assert result.exit_code == 0, result.output
    (address, found), status = seen
    assert address in result.output
    assert len(address.split("/")[3]) >= 32
    assert (found["images"], status) == (12, 200)


def test_a_taken_port(photographs: Path, shard_sets: Callable[..., Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in error_of(run("explore", shard_sets(), "--port", port, "--no-browser"))


def test_it_exports(photographs: Path, shard_sets: Callable[..., Path], tmp_path: Path) -> None:
    options = ["--images", photographs, "--export", tmp_path / "page", "--limit", 3, "--quiet"]
    result = run("explore", shard_sets(), *options)
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "page" / "index.html") in result.output
    assert len(list((tmp_path / "page" / "sheets").iterdir())) == 3


def test_a_limit_without_export_is_a_mistake(shard_sets: Callable[..., Path]) -> None:
    assert "--export" in error_of(run("explore", shard_sets(), "--limit", 3), code=2)


def test_a_missing_extra_is_named(
    shard_sets: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    error = error_of(run("explore", shard_sets(), "--no-browser"))
    assert "dr-plugins[explore]" in error
