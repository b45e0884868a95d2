"""The ``dr-plugins`` command."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from dr_plugins import __version__
from dr_plugins.cli import options
from dr_plugins.cli.command import Command, PluginGroup
from dr_plugins.cli.compare import compare_teachers
from dr_plugins.cli.explore import explore
from dr_plugins.cli.interrupts import ending_at_once
from dr_plugins.cli.mldr import download, import_mldr
from dr_plugins.cli.preview import preview
from dr_plugins.cli.reinforce import reinforce
from dr_plugins.cli.sets import extend, merge, split, subset
from dr_plugins.cli.startup import disable, enable, hooks
from dr_plugins.cli.statistics import statistics
from dr_plugins.cli.suspects import suspects
from dr_plugins.cli.transfer import pull, push
from dr_plugins.cli.unfinished import finish, status


@click.group(cls=PluginGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Make, inspect and verify reinforced datasets (Dataset Reinforcement, ICCV 2023).

    Exit status: 0 on success, 1 if something is wrong with data or files, 2 on wrong usage.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO)


@main.command(cls=Command, epilog="Example:\n\n  dr-plugins info imagenet-plus\n")
@click.argument("shards", metavar="SET")
def info(shards: str) -> None:
    """Describe a shard set: a directory, or an address such as s3://bucket/set."""
    with ending_at_once():
        from dr_plugins.shards.reader import ShardSet
        from dr_plugins.tools.describe import describe

    click.echo(describe(ShardSet(shards)))


@main.command(
    cls=Command,
    epilog="""Examples:

  dr-plugins verify imagenet-plus
  dr-plugins verify imagenet-plus --images imagenet/train --replay 1000
  dr-plugins verify imagenet-plus --workers 16 --records --resume verified.txt
""",
)
@click.argument("shards", metavar="SET")
@options.images("Their keys are compared with the set's.", required=False)
@click.option(
    "--replay",
    type=click.IntRange(min=0),
    default=0,
    help="Number of images to replay and compare with the teacher's view; needs --images.",
)
@options.workers("check files; 0 checks them in this one.")
@click.option("--records", is_flag=True, help="Also check the checksum of each record.")
@click.option(
    "--resume",
    type=options.Output(dir_okay=False),
    metavar="FILE",
    help="Remember in FILE which files are intact, and skip those that FILE lists.",
)
@options.class_map
@options.quiet
def verify(
    shards: str,
    images: str | None,
    replay: int,
    workers: int,
    records: bool,
    resume: Path | None,
    class_map: str | None,
    quiet: bool,
) -> None:
    """Check files, keys and replayed views; exit status 1 if anything is wrong."""
    with ending_at_once():
        from dr_plugins.tools.verify import verify as check

    if replay and images is None:
        raise click.UsageError("--replay needs the images: also pass --images")
    report = check(
        shards,
        options.open_images(images, class_map),
        replay=replay,
        workers=workers,
        records=records,
        resume=resume,
        progress=not quiet,
    )
    for problem in report.problems:
        click.echo(f"WRONG: {problem}", err=True)
    count = len(report.problems)
    click.echo(
        f"{report.files} files checked, {report.replayed} views replayed, "
        f"{count or 'no'} problem{'' if count == 1 else 's'}"
    )
    if report.problems:
        raise SystemExit(1)


main.add_command(statistics)
main.add_command(preview)
main.add_command(subset)
main.add_command(extend)
main.add_command(merge)
main.add_command(split)
main.add_command(pull)
main.add_command(push)
main.add_command(explore)
main.add_command(reinforce)
main.add_command(compare_teachers)
main.add_command(suspects)
main.add_command(finish)
main.add_command(status)
main.add_command(import_mldr)
main.add_command(download)
main.add_command(enable)
main.add_command(disable)
main.add_command(hooks)

if __name__ == "__main__":
    main()
