"""``dr-plugins suspects``."""

from __future__ import annotations

from pathlib import Path

import click

from dr_plugins.cli import options
from dr_plugins.cli.command import Command
from dr_plugins.cli.interrupts import ending_at_once

# Written files replace older ones, so links are followed: /dev/stdout is one.
_FILE = options.Output(dir_okay=False, resolve_path=True)
_SHOWN = 20  # lines, where nothing is written
_PICTURES = 200  # of a page, unless --top says more
_SORTS = {"margin": "margin", "self-confidence": "label_prob"}


@click.command(
    cls=Command,
    epilog="""Examples:

  dr-plugins suspects imagenet-plus --csv suspects.csv
  dr-plugins suspects imagenet-plus --top 500 --page suspects.html --images imagenet/train
  dr-plugins suspects fold-0 fold-1 --class n03642806 --keys skip.txt

Look at the suspects, delete images whose label is right from skip.txt, and leave the others out:

  dr-plugins reinforce --images imagenet/train --skip skip.txt ...
""",
)
@click.argument("sets", metavar="SET...", nargs=-1, required=True)
@click.option("--top", type=click.IntRange(min=1), help="Only the most suspicious ones.")
@click.option(
    "--class", "classes", multiple=True, metavar="NAME", help="Only images with this label."
)
@click.option(
    "--sort",
    type=click.Choice(list(_SORTS)),
    default="margin",
    show_default=True,
    help="By the label's probability less the largest other one, or by the label's alone.",
)
@click.option("--csv", "csv_file", type=_FILE, help="Write a table.")
@click.option("--json", "json_file", type=_FILE, help="Write a list of objects.")
@click.option("--keys", "keys_file", type=_FILE, help="Write the keys, one a line, for --skip.")
@click.option(
    "--page",
    type=_FILE,
    help=f"Write an HTML page, with pictures if --images is given.  [{_PICTURES} suspects unless "
    f"--top is given]",
)
@options.images(required=False)
@options.class_map
@options.workers("compute the set's statistics, unless they are known.")
@options.quiet
def suspects(
    sets: tuple[str, ...],
    top: int | None,
    classes: tuple[str, ...],
    sort: str,
    csv_file: Path | None,
    json_file: Path | None,
    keys_file: Path | None,
    page: Path | None,
    images: str | None,
    class_map: str | None,
    workers: int,
    quiet: bool,
) -> None:
    """List images whose label the teacher does not believe: likely label errors.

    By confident learning (Northcutt et al., 2021) on answers averaged over views. Several SETs are
    folds of one dataset, each with a teacher that was trained on the others. See docs/suspects.md.
    """
    with ending_at_once():
        from tqdm.auto import tqdm

        from dr_plugins.pictures import StoredPictures
        from dr_plugins.shards.reader import ShardSet
        from dr_plugins.suspects import find_suspects, write_csv, write_json, write_keys, write_page
        from dr_plugins.suspects.tables import class_name

    if images is not None and page is None:
        raise click.UsageError("--images is for the pictures of --page; add --page FILE")
    source = options.open_images(images, class_map)
    opened = [ShardSet(each) for each in sets]
    names = opened[0].manifest.settings["class_names"]
    labels = options.class_numbers(opened[0], classes)
    found = find_suspects(
        opened, sort=_SORTS[sort], labels=labels or None, workers=workers, progress=not quiet
    )
    chosen = found if top is None else found[:top]
    if csv_file is not None:
        write_csv(chosen, names, csv_file)
    if json_file is not None:
        write_json(chosen, names, json_file)
    if keys_file is not None:
        write_keys(chosen, keys_file)
    if page is not None:
        shown = chosen if top is not None else chosen[:_PICTURES]
        pictures = [] if source is None else [StoredPictures(source, each) for each in opened]
        with tqdm(shown, "page", unit=" images", disable=quiet) as bar:
            title = f"Suspects of {', '.join(sets)}"
            write_page(shown, names, page, title=title, pictures=pictures, advance=bar.update)
    total = sum(map(len, opened))
    click.echo(f"{len(found):,} suspects among {total:,} images")
    if csv_file is json_file is keys_file is page is None:
        for suspect in chosen[: top or _SHOWN]:
            label, other = (class_name(c, names) for c in (suspect.label, suspect.suggested))
            click.echo(
                f"{suspect.margin:.3f}  {suspect.key}  {label} {suspect.label_prob:.1%}, "
                f"suggested {other} {suspect.suggested_prob:.1%}"
            )
