"""``dr-plugins preview``: a contact sheet of a shard set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dr_plugins.cli import options
from dr_plugins.cli.command import Command
from dr_plugins.cli.interrupts import ending_at_once
from dr_plugins.cli.options import COUNT

if TYPE_CHECKING:
    from dr_plugins.shards.reader import ShardSet


@click.command(
    cls=Command,
    epilog="""Examples:

  dr-plugins preview imagenet-plus --images imagenet/train --out sheet.png
  dr-plugins preview imagenet-plus --images imagenet/train --worst 12 --out worst.png
  dr-plugins preview flowers-plus --images flowers --class rose --random 4 --out roses.png
  dr-plugins preview flowers-plus --images flowers --keys rose/1.jpg --out one-rose.png
""",
)
@click.argument("shards", metavar="SET")
@options.images()
@click.option(
    "--out",
    required=True,
    type=options.Output(dir_okay=False),
    help="Picture to write; the ending, such as .png or .jpg, selects the format.",
)
@click.option(
    "--keys",
    multiple=True,
    metavar="KEY|FILE",
    help="Show this image, a path relative to the root, or those that a file lists, one a line.",
)
@click.option("--class", "class_name", metavar="NAME", help="Show images of this class.")
@click.option("--worst", type=COUNT, help="Show images whose label the teacher believes least.")
@click.option("--best", type=COUNT, help="Show images whose label the teacher believes most.")
@click.option("--random", type=COUNT, help="Show any images.  [default: 8]")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the random choice.",
)
@click.option("--views", type=COUNT, default=6, show_default=True, help="Views of each image.")
@click.option(
    "--topk", type=COUNT, default=3, show_default=True, help="Classes shown for each view."
)
@options.class_map
@options.workers("compute statistics, which --class, --worst and --best need.")
@options.quiet
def preview(
    shards: str,
    images: str,
    out: Path,
    keys: tuple[str, ...],
    class_name: str | None,
    worst: int | None,
    best: int | None,
    random: int | None,
    seed: int,
    views: int,
    topk: int,
    class_map: str | None,
    workers: int,
    quiet: bool,
) -> None:
    """Draw images with their crops, the views that the teacher saw, and its answers."""
    with ending_at_once():
        from dr_plugins.images.sources import open_source
        from dr_plugins.pictures import StoredPictures, choose_rows, draw_sheet
        from dr_plugins.pictures.saving import save
        from dr_plugins.shards.reader import ShardSet
        from dr_plugins.statistics import open_statistics

    orders = {"worst": worst, "best": best, "random": random}
    chosen = {name: count for name, count in orders.items() if count is not None}
    if len(chosen) + bool(keys) > 1 or (keys and class_name is not None):
        raise click.UsageError("choose one of --keys, --worst, --best and --random")
    order, count = next(iter(chosen.items()), ("random", 8))
    opened = ShardSet(shards)
    options.class_numbers(opened, [] if class_name is None else [class_name])
    pictures = StoredPictures(open_source(images, class_map), opened)
    if keys:
        rows = opened.keys.rows(_named(keys, opened)).tolist()
        if not rows:
            raise click.UsageError(f"{', '.join(keys)} lists no images")
    else:
        rows = choose_rows(
            opened,
            pictures.rows,
            lambda: open_statistics(opened, workers, progress=not quiet),
            order=order,
            count=count,
            class_name=class_name,
            seed=seed,
        )
    save(draw_sheet(pictures, rows, views=views, topk=topk), out)
    click.echo(f"{len(rows)} images of {shards} are in {out}")


def _named(given: tuple[str, ...], shards: ShardSet) -> list[str]:
    """The keys that options name: each is a key of the set, or a file that lists keys."""
    found: list[str] = []
    for entry in given:
        if entry not in shards.keys and os.path.isfile(entry):
            try:
                text = Path(entry).read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                raise click.BadParameter(
                    f"{entry!r} is neither an image of the set, such as {shards.keys[0]!r}, nor a "
                    f"UTF-8 text file that lists some",
                    param_hint="--keys",
                ) from error
            found += [key for line in text.split("\n") if (key := line.removesuffix("\r"))]
        else:
            found.append(entry)
    return found
