from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dr_plugins.cli.main import main
from dr_plugins.cli.options import SAMPLES
from dr_plugins.shards.manifest import MAX_SAMPLES


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


@pytest.mark.parametrize("command", ["verify", "explore", "suspects", "push"])
def test_a_class_map_without_images_is_wrong_usage(command: str, tmp_path: Path) -> None:
    arguments = [command, str(tmp_path), "--class-map", __file__]
    if command == "push":
        arguments += ["memory://bucket/set", "--licence", "cc0-1.0"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert "--images" in result.output


def test_samples_are_those_that_a_set_may_have() -> None:
    assert (SAMPLES.min, SAMPLES.max) == (1, MAX_SAMPLES)
    context = click.Context(main)
    for name in ("reinforce", "extend", "compare-teachers"):
        command = main.get_command(context, name)
        assert command is not None
        assert SAMPLES in [p.type for p in command.params if p.name == "samples"]
