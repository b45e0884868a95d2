"""The command line."""

from __future__ import annotations

from dr_plugins.cli.command import Command
from dr_plugins.cli.interrupts import ending_at_once

__all__ = ["Command", "run"]


def run() -> None:
    """Run ``dr-plugins``; Ctrl-C ends it without a traceback, even during imports.

    Example:
        >>> run()                                                           # doctest: +SKIP
    """
    with ending_at_once():
        from dr_plugins.cli.main import main
    main(prog_name="dr-plugins")
