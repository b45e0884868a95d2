"""Base classes of the ``dr-plugins`` commands."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from dr_plugins.cli.interrupts import ending_at_once
from dr_plugins.errors import ReinforcementError

_GROUP = "dr_plugins.commands"


class Command(click.Command):
    """Shows examples verbatim, and typed errors as one line with exit status 1.

    Example:
        >>> @click.command(cls=Command, epilog="Example: dr-plugins hello")
        ... def hello() -> None:
        ...     "Say hello."
    """

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples without rewrapping them."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write(self.epilog)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; show this package's errors without a traceback."""
        try:
            with _terminable():
                return super().invoke(ctx)
        except ReinforcementError as error:
            raise click.ClickException(f"{error}") from error


@contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM end a command like Ctrl-C, but with SIGTERM's exit status."""
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


class PluginGroup(click.Group):
    """A group with commands from any package, found as entry points of ``dr_plugins.commands``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted({*super().list_commands(ctx), *_plugins()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; plugins are imported here."""
        own = super().get_command(ctx, cmd_name)
        entry = _plugins().get(cmd_name)
        if own is not None or entry is None:
            return own
        try:
            with ending_at_once():
                command: click.Command = entry.load()
        except ImportError as error:  # other commands and --help still work
            return _broken(entry, error)
        return command


def _plugins() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=_GROUP)}


def _broken(entry: EntryPoint, error: ImportError) -> click.Command:
    message = f"{entry.value} cannot be imported: {error}"

    def fail(**_: Any) -> None:
        raise click.ClickException(message)

    return click.Command(entry.name, callback=fail, help=message)
