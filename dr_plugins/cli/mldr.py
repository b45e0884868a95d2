"""Commands for the archives published by apple/ml-dr: ``import-mldr`` and ``download``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dr_plugins.cli import options
from dr_plugins.cli.command import Command
from dr_plugins.cli.interrupts import ending_at_once
from dr_plugins.cli.processes import count_workers

if TYPE_CHECKING:
    from dr_plugins.mldr import Agreement

_MOST_CLASSES = 5  # listed for low agreement


@click.command(
    "import-mldr",
    cls=Command,
    epilog="""Examples:

  dr-plugins import-mldr imagenet_plus_randaug_mini.tar.gz --images imagenet/train \\
      --out imagenet-plus-mini
  dr-plugins import-mldr cifar100.tar.gz --images torchvision:CIFAR100:data --out cifar100-plus
  dr-plugins import-mldr imagenet_plus_rrc.tar.gz --file-list train_files.txt --out imagenet-plus

Several archives of one kind are merged: each image gets the reinforcements of all of them.
To resume an interrupted import, run the same command again.
""",
)
@click.argument("archives", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--images",
    help="The training set: a directory with one folder per class, or torchvision:NAME:ROOT.",
)
@click.option(
    "--file-list",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Text file with one path (relative to the images) per line, in torchvision's order; "
    "replaces scanning --images.",
)
@click.option("--out", required=True, type=options.LOCAL_DIRECTORY, help="Output directory.")
@click.option("--num-classes", type=click.IntRange(min=1), help="[default: the dataset's]")
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Stop if the teacher's mean prediction matches the label of a smaller share of images.",
)
@click.option("--lossless", is_flag=True, help="Store probabilities in float32, not float16.")
@options.all_cores("decode")
@options.quiet
def import_mldr(
    archives: tuple[Path, ...],
    images: str | None,
    file_list: Path | None,
    out: Path,
    num_classes: int | None,
    min_agreement: float,
    lossless: bool,
    workers: int | None,
    quiet: bool,
) -> None:
    """Convert archives published by apple/ml-dr to a shard set."""
    with ending_at_once():
        from dr_plugins.images.sources import open_source
        from dr_plugins.mldr import ImageOrder, ImportSettings, import_archives
        from dr_plugins.shards.reader import ShardSet

    if images is None and file_list is None:
        raise click.UsageError("pass the images as --images, or their order as --file-list")
    if file_list is not None:
        order = ImageOrder.of_list(file_list, None if images is None else Path(images))
    else:
        order = ImageOrder.of_source(open_source(str(images)))
    settings = ImportSettings(
        num_classes=num_classes,
        probs_dtype="float32" if lossless else "float16",
        min_agreement=min_agreement,
        workers=count_workers(workers, 1, None),
        progress=not quiet,
    )
    try:
        report = import_archives(archives, order, out, settings)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would disturb the cleanup
        click.echo("\nRun the same command to resume.", err=True)
        raise
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    for agreement in report.agreement:
        if agreement is not None:
            click.echo(_agreement(agreement, order.class_names or []))
    click.echo(repr(ShardSet(out)))


def _agreement(agreement: Agreement, names: list[str]) -> str:
    share = f"{agreement.share:.1%}"
    lines = [f"The teacher's mean prediction matches the label of {share} of the images."]
    weak = [one for one in agreement.classes if 2 * one.agreeing < one.images]
    weak.sort(key=lambda one: one.agreeing / one.images)
    for one in weak[:_MOST_CLASSES]:
        label, mode = (names[n] if n < len(names) else str(n) for n in (one.label, one.mode))
        lines.append(
            f"  class {label}: {one.agreeing} of {one.images} images match; {one.in_mode} are "
            f"classified as {mode}"
        )
    if len(weak) > _MOST_CLASSES:
        lines.append(f"  and {len(weak) - _MOST_CLASSES} more classes below half")
    return "\n".join(lines)


@click.command(
    "download",
    cls=Command,
    epilog="""Examples:

  dr-plugins download --list
  dr-plugins download randaug-mini --out archives
""",
)
@click.argument("name", required=False)
@click.option("--out", type=options.LOCAL_DIRECTORY, help="Directory for the archive.")
@click.option("--list", "show_list", is_flag=True, help="List the published archives.")
@click.option("--base-url", help="Location of the archives.  [default: as published]")
@options.quiet
def download(
    name: str | None, out: Path | None, show_list: bool, base_url: str | None, quiet: bool
) -> None:
    """Download an archive published by apple/ml-dr; resumes a broken download."""
    with ending_at_once():
        from dr_plugins.mldr.errors import DownloadError
        from dr_plugins.mldr.published import BASE_URL, PUBLISHED, find_published

    if show_list:
        click.echo(_table(PUBLISHED))
        return
    if name is None or out is None:
        raise click.UsageError("pass the NAME of an archive and --out, or --list")
    try:
        published = find_published(name)
    except DownloadError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from error
    try:
        from dr_plugins.mldr.download import Expected
        from dr_plugins.mldr.download import download as fetch
    except ImportError as error:
        raise click.ClickException(str(error)) from error
    if published.note:
        click.echo(f"note: {published.note}", err=True)
    url = (base_url or BASE_URL).rstrip("/") + "/" + published.file
    expected = Expected(b"\x1f\x8b", *published.lengths)
    click.echo(str(fetch(url, out / published.file, expected=expected, progress=not quiet)))


def _table(rows: Any) -> str:
    lines = [f"{'name':<22}{'GB':>6}{'S':>6}{'k':>4}  {'policy':<16}file"]
    notes = []
    for row in rows:
        mark = ""
        if row.note:
            notes.append(f"* {row.name}: {row.note}")
            mark = " *"
        k = "?" if row.topk is None else row.topk
        lines.append(
            f"{row.name:<22}{row.gigabytes:>6}{row.samples:>6}{k:>4}  {row.policy:<16}"
            f"{row.file}{mark}"
        )
    return "\n".join(lines + notes)
