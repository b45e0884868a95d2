"""The command line."""

from __future__ import annotations

import sys

__all__ = ["run"]


def run() -> None:
    """Run ``dr-plugins``; Ctrl-C ends it without a traceback, even during imports."""
    try:
        from dr_plugins.cli.main import main
    except KeyboardInterrupt:
        sys.exit("\nAborted!")  # click's message
    main(prog_name="dr-plugins")
