"""``dr-plugins subset``, ``merge``, ``split`` and ``extend``: making shard sets from other sets."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dr_plugins.cli import options
from dr_plugins.cli.command import Command
from dr_plugins.cli.interrupts import ending_at_once
from dr_plugins.cli.options import COUNT, LOCAL_DIRECTORY, SAMPLES
from dr_plugins.cli.processes import count_workers, import_modules, usable_device

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(
    cls=Command,
    epilog="""Examples:

  dr-plugins subset imagenet-plus --samples 50 --topk 5 --out imagenet-plus-small
  dr-plugins subset imagenet-plus --classes n01440764,n01443537 --out two-classes
  dr-plugins subset imagenet-plus --keys tenth.txt --out imagenet-plus-tenth

To resume an interrupted run, run the same command again.
""",
)
@click.argument("directory", metavar="SET")
@click.option("--out", required=True, type=LOCAL_DIRECTORY, help="Output directory.")
@click.option("--samples", type=COUNT, help="Reinforcements per image, the first ones.")
@click.option("--topk", type=COUNT, help="Classes per reinforcement, the most probable ones.")
@click.option(
    "--classes",
    metavar="NAMES|FILE",
    help="Keep the images of these classes: names separated by commas, or a file with one a line.",
)
@click.option(
    "--keys", type=_FILE, help="Keep the images in this file, one path relative to the root a line."
)
@options.quiet
def subset(
    directory: str,
    out: Path,
    samples: int | None,
    topk: int | None,
    classes: str | None,
    keys: Path | None,
    quiet: bool,
) -> None:
    """Keep fewer reinforcements, classes per answer, or images of a shard set."""
    with ending_at_once():
        from dr_plugins.shards.reader import ShardSet
        from dr_plugins.tools.subset import subset as make

    if samples is topk is classes is keys is None:
        raise click.UsageError("choose at least one of --samples, --topk, --classes and --keys")
    chosen = None if classes is None else _names(classes)
    options.class_numbers(ShardSet(directory), chosen or [])
    make(
        directory,
        out,
        samples=samples,
        topk=topk,
        classes=chosen,
        keys=None if keys is None else _lines(keys),
        progress=not quiet,
    )
    click.echo(repr(ShardSet(out)))


@click.command(
    cls=Command,
    epilog="""Examples:

  dr-plugins merge seed-0 seed-1 --out both
  dr-plugins merge part-00000 part-00001 part-00002 --out whole

To resume an interrupted run, run the same command again.
""",
)
@click.argument("directories", metavar="SET...", nargs=-1, required=True)
@click.option("--out", required=True, type=LOCAL_DIRECTORY, help="Output directory.")
@options.quiet
def merge(directories: tuple[str, ...], out: Path, quiet: bool) -> None:
    """Make one shard set of several: more reinforcements of the same images, or other images."""
    with ending_at_once():
        from dr_plugins.shards.reader import ShardSet
        from dr_plugins.tools.merge import merge as make

    if len(directories) < 2:
        raise click.UsageError("one set is given; merging takes two or more")
    make(directories, out, progress=not quiet)
    click.echo(repr(ShardSet(out)))


@click.command(
    cls=Command,
    epilog="""Examples:

  dr-plugins split imagenet-plus --parts 8 --out imagenet-plus-parts
  dr-plugins split imagenet-plus --keys validation.txt --out held-out

To resume an interrupted run, run the same command again.
""",
)
@click.argument("directory", metavar="SET")
@click.option("--out", required=True, type=LOCAL_DIRECTORY, help="Directory of the parts.")
@click.option("--parts", type=COUNT, help="Number of parts, of consecutive keys.")
@click.option(
    "--keys",
    type=_FILE,
    help="Put the images in this file, one path a line, into the first part, all others into the "
    "second.",
)
@options.quiet
def split(directory: str, out: Path, parts: int | None, keys: Path | None, quiet: bool) -> None:
    """Split a shard set by images; `merge` joins the parts again."""
    with ending_at_once():
        from dr_plugins.shards.reader import ShardSet
        from dr_plugins.tools.split import split as make

    if (parts is None) == (keys is None):
        raise click.UsageError("choose either --parts or --keys")
    lines = None if keys is None else _lines(keys)
    written = make(directory, out, parts=parts, keys=lines, progress=not quiet)
    for number in range(len(written)):
        click.echo(repr(ShardSet(out / f"part-{number:05d}")))


@click.command(
    cls=Command,
    epilog="""Examples:

  dr-plugins extend imagenet-plus --images imagenet/train --samples 800 --out imagenet-plus-800
  dr-plugins extend flowers-plus --images more-flowers --out more-flowers-plus

To resume an interrupted run, run the same command again.
""",
)
@click.argument("directory", metavar="SET")
@options.images("Those that are not in the set are added.")
@options.keys
@click.option("--out", required=True, type=LOCAL_DIRECTORY, help="Output directory.")
@click.option(
    "--samples",
    type=SAMPLES,
    help="Reinforcements per image in the end.  [default: as in the set]",
)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    help="Where the set's teachers are now, as for `reinforce`.  [default: as in the set]",
)
@click.option("--workers", type=click.IntRange(min=0), help="As for `reinforce`.")
@click.option("--device", help="As for `reinforce`.")
@click.option("--views-on", type=click.Choice(["workers", "device"]), help="As for `reinforce`.")
@options.class_map
@options.imports
@options.quiet
def extend(
    directory: str,
    images: str,
    keys: str,
    out: Path,
    samples: int | None,
    teachers: tuple[str, ...],
    workers: int | None,
    device: str | None,
    views_on: str | None,
    class_map: str | None,
    imports: tuple[str, ...],
    quiet: bool,
) -> None:
    """Add images or reinforcements to a finished shard set, by its settings."""
    with ending_at_once():
        import torch

        from dr_plugins.generation.teacher_schemes import load_teacher
        from dr_plugins.generation.teachers import Ensemble
        from dr_plugins.images.sources import open_source
        from dr_plugins.shards.reader import ShardSet
        from dr_plugins.tools.extend import extend as make

    device = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    import_modules(imports)
    stored = ShardSet(directory).manifest
    ensemble = Ensemble(
        [load_teacher(spec) for spec in teachers or stored.settings["teachers"]],
        stored.temperature,
        torch.bfloat16 if stored.settings.get("precision") == "bfloat16" else None,
        bool(stored.settings.get("compiled")),
    )
    make(
        directory,
        open_source(images, class_map, keys=keys),
        ensemble,
        out,
        samples=samples,
        device=device,
        workers=count_workers(workers, 1, None),
        views_on=views_on,
        progress=not quiet,
    )
    click.echo(repr(ShardSet(out)))


def _names(text: str) -> list[str]:
    # Not Path.is_file, for which many names are a path that is too long.
    return _lines(Path(text)) if os.path.isfile(text) else text.split(",")


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    return [key for line in text.split("\n") if (key := line.removesuffix("\r"))]
