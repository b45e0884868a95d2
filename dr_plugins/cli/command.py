"""What all commands of ``dr-plugins`` have in common."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from dr_plugins.errors import ReinforcementError

__all__ = ["Command"]


class Command(click.Command):
    """Shows examples as they are written, and typed errors as one line with exit status 1."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples without rewrapping them."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write(self.epilog)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of this package becomes a message without traceback."""
        try:
            with _terminable():
                return super().invoke(ctx)
        except ReinforcementError as error:
            raise click.ClickException(f"{error}") from error


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, but with the exit status of SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminated = False

    def interrupt(*_: object) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        if terminated:
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
