"""``dr-plugins enable``, ``disable`` and ``status``: hooks for a host's own scripts."""

from __future__ import annotations

import sys

import click

from dr_plugins import startup
from dr_plugins.cli.command import Command

__all__ = ["disable", "enable", "status"]

_HOST = click.argument("host", type=click.Choice(startup.HOSTS))


@click.command(cls=Command, epilog="Example:\n\n  dr-plugins enable timm\n")
@_HOST
def enable(host: str) -> None:
    """Let a host's own scripts know reinforced datasets, by their names alone.

    After `enable timm`, `python train.py --dataset imagenet-plus` of timm trains on the reinforced
    dataset, with no other option. It holds for this Python environment until `disable timm`, and
    costs nothing where the host is not imported.
    """
    folder = startup.enable(host)
    problem = startup.explain(host)
    if problem:
        raise click.ClickException(f"the hook is in {folder}, but does not work: {problem}")
    click.echo(f"enabled for {host}, in {folder}")


@click.command(cls=Command, epilog="Example:\n\n  dr-plugins disable timm\n")
@_HOST
def disable(host: str) -> None:
    """Take back what `enable` did to this Python environment."""
    folders = startup.disable(host)
    removed = f"; removed from {', '.join(map(str, folders))}" if folders else ""
    click.echo(f"{host}: not enabled{removed}")


@click.command(cls=Command)
def status() -> None:
    """Say which hooks are enabled in this Python environment, and whether they work.

    Exit status 1 if one is enabled and does not work.
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
