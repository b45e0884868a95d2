"""Run the benchmarks: ``python -m benchmarks [NAME ...] [--out DIR]``."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks import (
    exploring,
    finishing,
    generating,
    growth,
    importing,
    keys,
    loading,
    loss,
    opening,
    reading,
    remote,
    sharing,
    summarizing,
    suspects,
    training,
)

BENCHMARKS = {
    "reading": reading.main,
    "loading": loading.main,
    "loss": loss.main,
    "training": training.main,
    "opening": opening.main,
    "finishing": finishing.main,
    "generating": generating.main,
    "growth": growth.main,
    "exploring": exploring.main,
    "importing": importing.main,
    "remote": remote.main,
    "keys": keys.main,
    "sharing": sharing.main,
    "summarizing": summarizing.main,
    "suspects": suspects.main,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(sorted(BENCHMARKS)))
@click.option("--out", type=click.Path(path_type=Path), default="benchmarks/output")
def main(names: tuple[str, ...], out: Path) -> None:
    """Measure against named peers in one run; all benchmarks unless NAMES are given."""
    for name in names or sorted(BENCHMARKS):
        BENCHMARKS[name](out)


if __name__ == "__main__":
    main()
