"""``dr-plugins pull`` and ``push``: copying shard sets from servers and to them."""

from __future__ import annotations

from pathlib import Path

import click

from dr_plugins.cli import options
from dr_plugins.cli.command import Command
from dr_plugins.cli.interrupts import ending_at_once


@click.command(
    cls=Command,
    epilog="""Example:

  dr-plugins pull hf://datasets/OWNER/NAME imagenet-plus

To resume an interrupted copy, run the same command again.
""",
)
@click.argument("address")
@click.argument("directory", type=options.LOCAL_DIRECTORY)
@options.quiet
def pull(address: str, directory: Path, quiet: bool) -> None:
    """Copy a shard set from a server; each file is checked on arrival.

    ADDRESS is such as s3://bucket/set, gs://bucket/set, hf://datasets/OWNER/NAME or https://host/set.
    """
    with ending_at_once():
        from dr_plugins.shards.reader import ShardSet
        from dr_plugins.tools.transfer import pull as copy

    copy(address, directory, progress=not quiet)
    click.echo(repr(ShardSet(directory)))


@click.command(
    cls=Command,
    epilog="""Examples:

  dr-plugins push imagenet-plus hf://datasets/OWNER/NAME --licence cc-by-4.0
  dr-plugins push flowers-plus hf://datasets/OWNER/NAME --licence cc0-1.0 --images flowers

To resume an interrupted copy, run the same command again.
""",
)
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("address")
@click.option(
    "--licence",
    "--license",
    prompt="Licence of the answers, such as cc-by-4.0",
    help="Licence of the answers for the dataset card, as the Hub names it.",
)
@options.images(
    "The card then shows four of them with their views, to all who may read the set.",
    required=False,
)
@options.class_map
@options.quiet
def push(
    directory: Path,
    address: str,
    licence: str,
    images: str | None,
    class_map: str | None,
    quiet: bool,
) -> None:
    """Copy a shard set to a server, with a dataset card; the manifest goes last."""
    with ending_at_once():
        from dr_plugins.tools.transfer import push as copy

    source = options.open_images(images, class_map)
    copy(directory, address, licence=licence, images=source, progress=not quiet)
    click.echo(f"{directory} is at {address}")
