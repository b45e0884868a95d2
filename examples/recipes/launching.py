"""Starting a training: by timm's train.py where it is given, else by `examples.recipes.train`."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from examples.recipes.train import train

ROOT = Path(__file__).resolve().parents[2]

# Options that are not numbers, such as --experiment 007.
_TEXTS = ("data_dir", "experiment", "output", "resume")
# Of commands that take another program's options as well.
CONTEXT = {
    "ignore_unknown_options": True,
    "show_default": True,
    "help_option_names": ["-h", "--help"],
}
train_script_option = click.option(
    "--train-script",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="TIMM_TRAIN_SCRIPT",
    help="timm's train.py.  [default: $TIMM_TRAIN_SCRIPT, else examples/recipes/train.py]",
)


def launch(options: Mapping[str, Any], script: Path | None, arguments: Sequence[str] = ()) -> None:
    """Run a training to its end.

    Args:
        options: As in a YAML file for train.py; with `output` and `experiment`.
        script: timm's train.py; None to train in this process.
        arguments: Those of the options that a user gave, as given: the script ignores unknown keys
            of a file, and rejects unknown arguments.

    Raises:
        click.ClickException: The script failed.
    """
    if script is None:
        train(options)
        return
    folder = Path(options["output"]) / options["experiment"]
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(dict(options)))
    _run(str(script), "--config", str(recipe), *arguments)


def dr_plugins(*arguments: str) -> None:
    """Show and run a command ``dr-plugins``.

    Raises:
        click.ClickException: It failed.
    """
    click.echo(shlex.join(("dr-plugins", *arguments)))
    _run("-m", "dr_plugins", *arguments)


def _run(*arguments: str) -> None:
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, check=False)
    if done.returncode:
        raise click.ClickException(f"exit status {done.returncode} of {shlex.join(command)}")


def options_of(arguments: Sequence[str]) -> dict[str, Any]:
    """Read ``--key value``, ``--key=value`` and ``--key value value``.

    Values are YAML, but names of files and of runs are as given. A key without a value is true.

    Example:
        >>> options_of(["--batch-size", "64", "--lr=1e-3", "--scale", "0.5", "1.0", "--amp"])
        {'batch_size': 64, 'lr': 0.001, 'scale': [0.5, 1.0], 'amp': True}
    """
    options: dict[str, list[Any]] = {}
    values: list[Any] | None = None
    read: Callable[[str], Any] = _read
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            read = str if name in _TEXTS else _read
            values = options[name] = [read(value)] if equals else []
        elif values is None or re.match("-[a-zA-Z]", argument):
            raise click.UsageError(f"{argument!r}: expected --NAME VALUE, with the long name")
        else:
            values.append(read(argument))
    return {name: _one_or_all(values) for name, values in options.items()}


def _read(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str):  # such as 1e-3, which YAML takes for text
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _one_or_all(values: list[Any]) -> Any:
    if not values:
        return True
    return values[0] if len(values) == 1 else values
