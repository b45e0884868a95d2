"""``dr-plugins explore``: a shard set in the browser."""

from __future__ import annotations

from pathlib import Path

import click

from dr_plugins.cli import options
from dr_plugins.cli.command import Command
from dr_plugins.cli.interrupts import ending_at_once


@click.command(
    cls=Command,
    epilog="""Examples:

  dr-plugins explore imagenet-plus --images imagenet/train
  dr-plugins explore imagenet-plus --images imagenet/train --export page --limit 500

On another machine, forward the port: ssh -L 8000:localhost:8000 HOST, then explore --port 8000
--no-browser there.
""",
)
@click.argument("shards", metavar="SET")
@options.images("Without it, only numbers and answers are shown.", required=False)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port; 0 takes a free one.")
@click.option("--no-browser", is_flag=True, help="Only print the page's address.")
@click.option(
    "--export",
    "out",
    type=options.Output(file_okay=False),
    metavar="DIR",
    help="Write the page as files that need no server, and end.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Export only N images, evenly spread over the set.  [default: all]",
)
@options.workers("compute the statistics of a set that has none yet, and draw for --export.")
@options.class_map
@options.quiet
def explore(
    shards: str,
    images: str | None,
    port: int,
    no_browser: bool,
    out: Path | None,
    limit: int | None,
    workers: int,
    class_map: str | None,
    quiet: bool,
) -> None:
    """Look at a shard set in the browser: images, views, the teacher's answers, its classes.

    The page is served to this machine only, at an address with a random token, until Ctrl-C.
    """
    with ending_at_once():
        from dr_plugins.explorer import Catalog, export, serve
        from dr_plugins.pictures import StoredPictures
        from dr_plugins.shards.reader import ShardSet
        from dr_plugins.statistics import open_statistics

    if limit is not None and out is None:
        raise click.UsageError("--limit belongs to --export: a served page makes what is looked at")
    source = options.open_images(images, class_map)
    opened = ShardSet(shards)
    catalog = Catalog(opened, open_statistics(opened, workers, progress=not quiet))
    pictures = None if source is None else StoredPictures(source, opened)
    if out is None:
        try:
            serve(
                catalog,
                pictures,
                port=port,
                browser=not no_browser,
                announce=lambda address: click.echo(f"{address}\nCtrl-C ends the server."),
            )
        except ImportError as error:
            raise click.ClickException(str(error)) from error
    else:
        export(catalog, pictures, out, limit=limit, workers=workers, progress=not quiet)
        click.echo(f"open {out / 'index.html'}")
