"""The command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dr_plugins.cli.interrupts import ending_at_once

if TYPE_CHECKING:
    from dr_plugins.cli.command import Command

__all__ = ["Command", "run"]


def run() -> None:
    """Run ``dr-plugins``; Ctrl-C ends it without a traceback, even during imports.

    Example:
        >>> run()                                                           # doctest: +SKIP
    """
    with ending_at_once():
        from dr_plugins.cli.main import main
    main(prog_name="dr-plugins")


def __getattr__(name: str) -> Any:
    # Not imported with this package, since Ctrl-C during that import would print a traceback.
    if name == "Command":
        from dr_plugins.cli.command import Command

        return Command
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
