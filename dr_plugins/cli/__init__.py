"""The command line."""

from __future__ import annotations

import sys

__all__ = ["run"]


def run() -> None:
    """Run ``dr-plugins``; Ctrl-C ends it without traceback, also while its modules are imported."""
    try:
        from dr_plugins.cli.main import main
    except KeyboardInterrupt:
        sys.exit("\nAborted!")  # as click says it later
    main(prog_name="dr-plugins")
