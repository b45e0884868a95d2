"""Starting a training: by timm's train.py where it is given, else by `examples.recipes.train`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from examples.recipes.train import train

ROOT = Path(__file__).resolve().parents[2]

train_script_option = click.option(
    "--train-script",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="TIMM_TRAIN_SCRIPT",
    help="timm's train.py.  [default: $TIMM_TRAIN_SCRIPT, else examples/recipes/train.py]",
)


def launch(options: Mapping[str, Any], script: Path | None) -> None:
    """Run a training to its end.

    Args:
        options: As in a YAML file for train.py; with `output` and `experiment`.
        script: timm's train.py; None to train in this process.

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
    _run(str(script), "--config", str(recipe))


def dr_plugins(*arguments: str) -> None:
    """Show and run a command ``dr-plugins``.

    Raises:
        click.ClickException: It failed.
    """
    click.echo(f"dr-plugins {' '.join(arguments)}")
    _run("-m", "dr_plugins", *arguments)


def _run(*arguments: str) -> None:
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, check=False)
    if done.returncode:
        raise click.ClickException(f"exit status {done.returncode} of {' '.join(command)}")


def options_of(arguments: Sequence[str]) -> dict[str, Any]:
    """Read ``--key value`` pairs; values are YAML, and a key without a value is true.

    Example:
        >>> options_of(["--batch-size", "64", "--amp"])
        {'batch_size': 64, 'amp': True}
    """
    options: dict[str, Any] = {}
    for i, argument in enumerate(arguments):
        if argument.startswith("--"):
            name = argument[2:].replace("-", "_")
            following = arguments[i + 1 : i + 2]
            flag = not following or following[0].startswith("--")
            options[name] = True if flag else yaml.safe_load(following[0])
        elif not i or not arguments[i - 1].startswith("--"):
            raise click.UsageError(f"{argument!r} follows no option; expected --NAME VALUE")
    return options
