"""``dr-plugins statistics``: what a teacher answered, in a few numbers."""

from __future__ import annotations

import json
from typing import Any

import click

from dr_plugins.cli import options
from dr_plugins.cli.command import Command
from dr_plugins.cli.interrupts import ending_at_once
from dr_plugins.utils.quoting import quoted


@click.command(
    cls=Command,
    epilog="""Examples:

  dr-plugins statistics imagenet-plus --workers 16
  dr-plugins statistics imagenet-plus --json > statistics.json
""",
)
@click.argument("shards", metavar="SET")
@options.workers("read shards; 0 reads them in this one.")
@click.option(
    "--pairs",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Pairs of classes to show.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.quiet
def statistics(shards: str, workers: int, pairs: int, as_json: bool, quiet: bool) -> None:
    """Compute how sure a teacher is about each image, and whether it agrees with the label.

    The numbers of all images are kept in statistics.npz in the set's directory, or in
    $DR_PLUGINS_CACHE where the set is remote or cannot be written to.
    """
    with ending_at_once():
        from dr_plugins.shards.reader import ShardSet
        from dr_plugins.statistics import open_statistics

    opened = ShardSet(shards)
    summary = open_statistics(opened, workers, progress=not quiet).summary(pairs)
    names = opened.manifest.settings["class_names"]
    for entry in summary["confused"]:
        if names is not None:
            entry["label"], entry["answer"] = names[entry["label"]], names[entry["answer"]]
    if as_json:
        click.echo(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join(_lines(summary)))


def _lines(summary: dict[str, Any]) -> list[str]:
    from dr_plugins.statistics.numbers import NUMBERS

    mixed = f", of {summary['mixed']:,} only mixed views" if summary["mixed"] else ""
    lines = [f"images          {summary['images']:,}, {summary['labelled']:,} with a label{mixed}"]
    for name, number in NUMBERS.items():
        if summary[name] is not None:
            lines.append(f"{name.replace('_', ' '):<16}{summary[name]:.4f}  {number.meaning}")
    if summary["confused"]:
        lines += ["", "views whose top class is not the label, by pairs of classes:"]
    for entry in summary["confused"]:
        label, answer = (quoted(str(entry[name])) for name in ("label", "answer"))
        lines.append(f"{entry['views']:>10,}  {entry['share']:6.1%} of {label} are {answer}")
    return lines
