from __future__ import annotations

import click
import pytest

from dr_plugins.cli.main import main


def test_no_command_writes_to_an_address_as_if_it_were_a_path() -> None:
    context = click.Context(main, **main.context_settings)
    commands = [main.get_command(context, name) for name in main.list_commands(context)]
    written = [
        (command.name, param)
        for command in commands
        if command is not None
        for param in command.params
        if isinstance(param.type, click.Path) and not param.type.exists
    ]
    assert {"reinforce", "merge", "preview", "explore"} <= {name for name, _ in written}
    for _, param in written:
        with pytest.raises(click.BadParameter):
            param.type.convert("s3://bucket/name.png", param, context)
