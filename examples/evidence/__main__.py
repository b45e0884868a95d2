"""``python -m examples.evidence``: measure what the paper claims, at a scale for two cores."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from examples.evidence.advisor import draw_some, update, write_section
from examples.evidence.grid import EXPERIMENTS, entries
from examples.evidence.report import refresh_readme, write_report
from examples.evidence.runner import RUNS, make_all, missing

ROOT = Path(__file__).parents[2]
README, TEACHERS = ROOT / "README.md", ROOT / "docs" / "teachers.md"
_PATH = click.Path(path_type=Path)


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.option("--only", multiple=True, type=click.Choice(list(EXPERIMENTS)), help="Experiments.")
@click.option("--match", default="", help="Only runs with this text in their name.")
@click.option("--seeds", default=3, type=click.IntRange(1), help="Seeds of each run.")
@click.option("--jobs", default=1, type=click.IntRange(1), help="Processes, of one thread each.")
@click.option("--runs", "folder", default=RUNS, type=_PATH, help="Results, one file per run.")
@click.option("--cache", default="runs/evidence", type=_PATH, help="What can be made again.")
@click.option("--list", "listed", is_flag=True, help="Name the runs that are missing, make none.")
@click.pass_context
def main(
    context: click.Context,
    only: tuple[str, ...],
    match: str,
    seeds: int,
    jobs: int,
    folder: Path,
    cache: Path,
    listed: bool,
) -> None:
    """Make the runs of the grid that are missing.

    Several processes and machines may share the folder of results: each run is made once.
    """
    if context.invoked_subcommand:
        for name in context.params:
            if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
                raise click.UsageError(
                    f"options are written after {context.invoked_subcommand}, which has its own"
                )
        return
    runs = [run for run in entries(only or EXPERIMENTS, seeds) if match in run.name]
    if listed:
        for run in missing(runs, folder):
            click.echo(run.name)
    else:
        make_all(runs, folder, cache, jobs)


@main.command()
@click.option("--runs", "folder", default=RUNS, type=_PATH, show_default=True, help="Results.")
@click.option("--out", default=RUNS.parent, type=_PATH, show_default=True, help="Of the report.")
@click.option("--readme", type=_PATH, default=README, show_default=True, help="With the summary.")
def report(folder: Path, out: Path, readme: Path) -> None:
    """Write README.md and its figures from the runs that there are."""
    write_report(folder, out)
    refresh_readme(folder, readme)
    click.echo(out / "README.md")


@main.command()
@click.option("--runs", "folder", default=RUNS, type=_PATH, show_default=True, help="Results.")
@click.option("--cache", default="runs/evidence", type=_PATH, help="Teachers.")
@click.option("--page", default=TEACHERS, type=_PATH, show_default=True, help="With the tables.")
def advisor(folder: Path, cache: Path, page: Path) -> None:
    """Measure the teachers of the experiment "advisor" whose students there are; write a page."""
    measurements = folder.parent / "teachers.json"
    update(folder, measurements, cache)
    picture = page.parent / "figures" / "teachers.png"
    if not picture.exists():
        draw_some(picture, cache)
    write_section(folder, measurements, page)
    click.echo(page)


if __name__ == "__main__":
    main()
