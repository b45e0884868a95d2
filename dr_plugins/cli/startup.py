"""``dr-plugins enable``, ``disable`` and ``hooks``: hooks for a host's own scripts."""

from __future__ import annotations

import sys

import click

from dr_plugins import startup
from dr_plugins.cli.command import Command

_HOST = click.argument("host", type=click.Choice(startup.HOSTS))


@click.command(cls=Command, epilog="Example:\n\n  dr-plugins enable timm\n")
@_HOST
def enable(host: str) -> None:
    """Make reinforced datasets available to a host's own scripts, by name.

    After `enable timm`, timm's `python train.py --dataset "imagenet-plus?shards=SET"` trains on a
    reinforced dataset. It applies to this Python environment until `disable timm`, and costs
    nothing unless the host is imported.
    """
    folder = startup.enable(host)
    problem = startup.explain(host)
    if problem:
        raise click.ClickException(f"the hook is in {folder}, but does not work: {problem}")
    click.echo(f"enabled for {host}, in {folder}")


@click.command(cls=Command, epilog="Example:\n\n  dr-plugins disable timm\n")
@_HOST
def disable(host: str) -> None:
    """Undo `enable` in this Python environment."""
    folders = startup.disable(host)
    removed = f"; removed from {', '.join(map(str, folders))}" if folders else ""
    click.echo(f"{host}: not enabled{removed}")


@click.command(cls=Command, epilog="Example:\n\n  dr-plugins hooks\n")
def hooks() -> None:
    """Show which hosts are enabled in this Python environment, and whether their hooks work.

    Exit status 1 if an enabled hook does not work.
    """
    click.echo(f"environment: {sys.prefix}")
    problems = 0
    for host in startup.HOSTS:
        folders = startup.enabled_in(host)
        problem = startup.explain(host) if folders else None
        works = f"does not work: {problem}" if problem else "works"
        where = ", ".join(map(str, folders))
        click.echo(f"{host}: enabled in {where}; {works}" if folders else f"{host}: not enabled")
        problems += problem is not None
    if problems:
        raise SystemExit(1)
