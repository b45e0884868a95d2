"""What all commands of ``dr-plugins`` have in common."""

from __future__ import annotations

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
            return super().invoke(ctx)
        except ReinforcementError as error:
            raise click.ClickException(f"{error}") from error
