"""``dr-plugins finish`` and ``status``: shard sets that are not complete."""

from __future__ import annotations

from pathlib import Path

import click

from dr_plugins.cli.command import Command
from dr_plugins.cli.options import LOCAL_DIRECTORY


@click.command(cls=Command, epilog="Example:\n\n  dr-plugins finish imagenet-plus\n")
@click.argument("directory", type=LOCAL_DIRECTORY)
def finish(directory: Path) -> None:
    """Check the shards that all parts have made, and complete the set.

    The process that makes the last shard does this by itself; this command is for a set whose
    last process died before it wrote the manifest. Exit status 1 if shards are missing.
    """
    from dr_plugins.generation.unfinished import finish_set

    finish_set(directory)
    click.echo(described(directory))


@click.command(cls=Command, epilog="Example:\n\n  dr-plugins status imagenet-plus\n")
@click.argument("directory")
def status(directory: str) -> None:
    """Show how far a set is, over all processes and parts: shards, images, rate, time left."""
    click.echo(described(directory))


def described(directory: str | Path) -> str:
    """Describe a set in one line if it is complete, else how far it is."""
    from dr_plugins.generation.unfinished import measure_progress
    from dr_plugins.shards.address import located
    from dr_plugins.shards.reader import ShardSet
    from dr_plugins.utils.files import MANIFEST_NAME

    if (located(directory) / MANIFEST_NAME).exists():
        return repr(ShardSet(directory))
    return str(measure_progress(directory))
