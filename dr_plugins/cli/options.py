"""Options of several commands: one name, type, default and description each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dr_plugins.cli.interrupts import ending_at_once
from dr_plugins.images.keys import KEY_RULES
from dr_plugins.images.schemes import usage
from dr_plugins.policies.config import preset_names

if TYPE_CHECKING:
    from dr_plugins.images.sources import ImageSource
    from dr_plugins.shards.reader import ShardSet

# What follows a scheme in the packages' own; of others the help shows the name alone.
_TEACHERS = {"python": "python:MODULE:FUNCTION", "timm": "timm:NAME[@CHECKPOINT]"}
COUNT = click.IntRange(min=1)
# At most `MAX_SAMPLES`, whose module imports NumPy; a test compares them.
SAMPLES = click.IntRange(1, 1 << 20)


class Output(click.Path):
    """A path of this machine that a command writes; an address would become a folder of that name.

    Args:
        **kwargs: Of `click.Path`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(path_type=Path, **kwargs)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path, also of a ``file://`` address."""
        text = str(value).removeprefix("file://")
        if "://" in text:
            self.fail(
                f"{text} is an address; name a path of this machine. `dr-plugins push` copies sets "
                "to addresses.",
                param,
                ctx,
            )
        return Path(str(super().convert(text, param, ctx)))


LOCAL_DIRECTORY = Output()
_Option = Callable[[Any], Any]


def images(more: str = "", *, required: bool = True) -> _Option:
    """``--images``: what `open_source` opens."""
    return click.option(
        "--images",
        required=required,
        help=f"Directory with one folder per class, {usage()}. {more}".strip(),
    )


def teachers(more: str) -> _Option:
    """``--teacher``: what `load_teacher` builds, several times."""
    names = sorted(entry.name for entry in entry_points(group="dr_plugins.teachers"))
    forms = [_TEACHERS.get(name, f"{name}:...") for name in names]
    return click.option(
        "--teacher",
        "teachers",
        required=True,
        multiple=True,
        help=f"{', '.join(forms)}; {more}",
    )


keys = click.option(
    "--keys",
    type=click.Choice(sorted(KEY_RULES)),
    default="path",
    show_default=True,
    help="What identifies an image: its path, or ImageNet's name for it, the same in every copy.",
)


def seed(of: str) -> _Option:
    """``--seed``."""
    return click.option(
        "--seed",
        type=click.IntRange(0, (1 << 64) - 1),
        default=0,
        show_default=True,
        help=f"Seed of {of}.",
    )


def bf16(networks: str = "teachers") -> _Option:
    """``--bf16``."""
    return click.option(
        "--bf16", is_flag=True, help=f"Run the {networks} in bfloat16 mixed precision."
    )


def batch_size(default: int, of: str = "Views") -> _Option:
    """``--batch-size``."""
    return click.option(
        "--batch-size",
        type=COUNT,
        default=default,
        show_default=True,
        help=f"{of} per forward pass.",
    )


def device(of: str = "teachers") -> _Option:
    """``--device``: None chooses CUDA where it is there."""
    return click.option(
        "--device", help=f"Device of the {of}.  [default: cuda if available, else cpu]"
    )


def all_cores(that: str = "augment", more: str = "") -> _Option:
    """``--workers``: None means one per core, or what `more` says."""
    return click.option(
        "--workers",
        type=click.IntRange(min=0),
        help=f"Processes that {that}.  [default: one per core{more}]",
    )


def workers(that: str) -> _Option:
    """``--workers``: 0 works in the command's own process."""
    return click.option(
        "--workers",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help=f"Processes that {that}",
    )


policy = click.option(
    "--policy",
    default="randaug",
    show_default=True,
    help=f"Preset ({', '.join(preset_names())}) or YAML file.",
)
size = click.option(
    "--size", type=COUNT, help="Side of the views in pixels.  [default: the policy's]"
)
temperature = click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Temperature of the teachers' softmax.",
)
class_map = click.option(
    "--class-map",
    type=click.Path(exists=True, dir_okay=False),
    help="Text file with one class folder name per line, in label order.",
)
imports = click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE",
    help="Module to import first, such as one that registers models with timm.",
)
quiet = click.option("--quiet", is_flag=True, help="No progress bar.")


def open_images(images: str | None, class_map: str | None) -> ImageSource | None:
    """Open what an optional ``--images`` names; None without it.

    Raises:
        UsageError: There is a class map, but no images.
    """
    with ending_at_once():
        from dr_plugins.images.sources import open_source

    if images is None and class_map is not None:
        raise click.UsageError("--class-map is for the images; add --images")
    return None if images is None else open_source(images, class_map)


def class_numbers(shards: ShardSet, names: Iterable[str]) -> list[int]:
    """The numbers of classes that a user names, in a set.

    Raises:
        BadParameter: The set has no such class.
    """
    from dr_plugins.errors import SettingsMismatchError
    from dr_plugins.pictures.choosing import class_number

    try:
        return [class_number(shards, name) for name in names]
    except SettingsMismatchError as error:
        raise click.BadParameter(str(error)) from error
