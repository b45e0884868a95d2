"""Commands in this process: starting Python for each takes longer than they do."""

from __future__ import annotations

import pytest


@pytest.fixture
def _commands_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from dr_plugins.cli.main import main
    from examples.recipes import launching

    def run(*arguments: str) -> None:
        main(arguments, standalone_mode=False)

    monkeypatch.setattr(launching, "dr_plugins", run)
