"""Dataset names with options, ``NAME?key=value&key=value``, and the shard sets they refer to."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from dr_plugins.shards.address import located
from dr_plugins.shards.location import LocalPath, Location
from dr_plugins.utils.files import MANIFEST_NAME
from timm_ext.errors import DatasetNameError, ShardsNotFoundError

NAMES = ("imagenet-plus", "cifar100-plus", "flowers102-plus", "food101-plus", "reinforced")
SHARDS_VARIABLE = "DR_PLUGINS_SHARDS"
_FOLDER = "reinforcements"
# timm's prefixes before a slash; any other prefix makes it an image folder.
_TIMM_PREFIXES = ("torch", "hfds", "hfids", "tfds", "wds")


@dataclass(frozen=True)
class DatasetName:
    """A reinforced dataset as named on timm's command line.

    Attributes:
        name: One of `NAMES`.
        shards: Directory or address of the shard set; None to search for it, see `find_shards`.
        base: timm's name of the dataset that holds the images; empty for an image folder. Only for
            ``reinforced``; the other names imply it.
        p: Probability of a reinforcement, within [0, 1].
        densify: ``"smooth"`` or ``"zeros"``.
        check: ``"error"``, ``"warn"`` or ``"off"``.
        seed: Seed of the choice of reinforcements; None for timm's ``--seed``.
        skip: File with the keys of images to leave out, one a line; empty for none.
        loss: Specification for `dr_plugins.losses.build_loss`; None for the KL divergence.
        images: Training images for `dr_plugins.open_source`, in place of those that name and `base`
            imply; empty for none.
        validation: Validation images, likewise.
    """

    name: str
    shards: str | None = None
    base: str = ""
    p: float = 0.99
    densify: str = "smooth"
    check: str = "error"
    seed: int | None = None
    skip: str = ""
    loss: str | None = None
    images: str = ""
    validation: str = ""


def parse_name(text: str) -> DatasetName | None:
    """Read a dataset name.

    timm treats an unknown name as an image folder and would silently train on hard labels, so a
    misspelled name is an error here.

    Args:
        text: As given to ``--dataset``. Values are percent-decoded: ``%26`` is ``&``, ``%25`` is
            ``%``. A ``%`` without two hexadecimal digits after it is literal, and so is ``+``.

    Returns:
        The parsed name; None if it is not a reinforced dataset's.

    Raises:
        DatasetNameError: A misspelled name, a name followed by anything but options, an unknown
            ``*-plus`` name, an unknown option, or a value out of range.

    Example:
        >>> parse_name("imagenet-plus?p=0.9&check=warn").p
        0.9
        >>> parse_name("torch/cifar100") is None
        True
    """
    name, mark, query = text.partition("?")
    if name.lower() not in NAMES:
        prefix, slash, _ = name.lower().partition("/")
        if slash and prefix in _TIMM_PREFIXES:
            return None
        head = next(iter(re.findall(r"[a-z0-9_+-]+", name.lower())), "")
        if head in NAMES:
            raise DatasetNameError(
                f"dataset name {text!r} is invalid; options follow a question mark, as in "
                f"{head}?p=0.9&check=warn"
            )
        if mark or _resembles(head):
            raise _unknown("reinforced dataset", name, NAMES)
        return None
    parsed = DatasetName(name.lower(), **(_options(query) if mark else {}))
    if parsed.base and parsed.name != "reinforced":
        raise DatasetNameError(
            f"{parsed.name} has fixed images, so it takes no `base={parsed.base}`; write "
            f"reinforced?base={parsed.base}"
        )
    if parsed.base and parsed.images:
        raise DatasetNameError(
            f"base={parsed.base} and images={parsed.images} both name the images; remove one of "
            f"them"
        )
    for key in ("skip", "loss"):
        value = getattr(parsed, key)
        if value and not parsed.p:
            raise DatasetNameError(
                f"{key}={value} is for images of a shard set, but with p=0 none is used; remove "
                f"one of them"
            )
    return parsed


def find_shards(name: DatasetName, root: str | os.PathLike[str] | None) -> Location:
    """Return the directory of a dataset's shard set, local or remote.

    That is `name.shards` if given; otherwise ``$DR_PLUGINS_SHARDS`` (a shard set, or a directory
    that contains one called `name.name`), then ``ROOT/reinforcements/NAME``.

    Args:
        name: The dataset.
        root: timm's ``--data-dir``.

    Raises:
        ShardsNotFoundError: There is none; the message lists the places searched.
    """
    places = list(_places(name, root))
    for _, place in places:
        if (place / MANIFEST_NAME).exists():
            return place
    looked = "".join(f"\n  {origin}: {place} ({_what_is(place)})" for origin, place in places)
    if not places:
        looked = f" none, since neither {SHARDS_VARIABLE} nor --data-dir is set."
    raise ShardsNotFoundError(
        f"no shard set for {name.name}. Name one with --dataset '{name.name}?shards=DIRECTORY', or "
        f"make one with `dr-plugins reinforce`. Places searched:{looked}"
    )


def _places(name: DatasetName, root: str | os.PathLike[str] | None) -> list[tuple[str, Location]]:
    if name.shards is not None:
        return [("shards=", _named(name.shards))]
    places = []
    if variable := os.environ.get(SHARDS_VARIABLE):
        folder = _named(variable)
        places = [(f"${SHARDS_VARIABLE}", folder), (f"${SHARDS_VARIABLE}", folder / name.name)]
    if root is not None:
        places.append(("--data-dir", located(Path(root) / _FOLDER / name.name)))
    return places


def _named(text: str) -> Location:
    return located(os.path.expanduser(text))


def _what_is(place: Location) -> str:
    if isinstance(place, LocalPath) and not place.exists():
        return "does not exist"
    if isinstance(place, LocalPath) and not place.path.is_dir():
        return "is not a directory"
    return f"has no {MANIFEST_NAME}: not a shard set, or an unfinished one"


def _resembles(name: str) -> bool:
    letters = re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "plus"))
    near = get_close_matches(name, NAMES, n=1, cutoff=0.85)
    return letters.endswith("plus") or letters.startswith("reinforce") or bool(near)


def _options(query: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for item in query.split("&"):
        key, equals, value = item.partition("=")
        if key not in _OPTIONS:
            raise _unknown("dataset option", key, tuple(_OPTIONS), "; `&` in a value is %26")
        if key in options:
            raise DatasetNameError(f"dataset option {key!r} is given twice; give it once")
        convert, expected = _OPTIONS[key]
        try:
            options[key] = convert(unquote(value, errors="surrogateescape"))
        except ValueError as error:
            raise DatasetNameError(
                f"dataset option {key!r} is {value!r}; expected {expected}"
            ) from error
        if not equals or not value:
            raise DatasetNameError(f"dataset option {key!r} has no value; expected {expected}")
    return options


def _unknown(kind: str, name: str, known: tuple[str, ...], note: str = "") -> DatasetNameError:
    nearest = get_close_matches(name.lower(), known, 1, 0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return DatasetNameError(f"unknown {kind} {name!r}: {hint}Known: {', '.join(known)}{note}")


def _probability(text: str) -> float:
    if not 0.0 <= float(text) <= 1.0:
        raise ValueError(text)
    return float(text)


def _seed(text: str) -> int:
    if not 0 <= int(text) < 2**63:
        raise ValueError(text)
    return int(text)


def _one_of(*choices: str) -> tuple[Callable[[str], str], str]:
    def convert(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return convert, " or ".join(choices)


_OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "shards": (str, "the directory of a shard set"),
    "base": (str, "timm's name of a dataset, such as torch/fashion_mnist"),
    "images": (str, "images as `dr-plugins reinforce --images` takes them, such as tar:FILE"),
    "validation": (str, "images as `dr-plugins reinforce --images` takes them, such as tar:FILE"),
    "p": (_probability, "a probability between 0 and 1"),
    "densify": _one_of("smooth", "zeros"),
    "check": _one_of("error", "warn", "off"),
    "seed": (_seed, "an integer from 0 to 2**63 - 1"),
    "skip": (os.path.expanduser, "a file with the keys of images to leave out, one a line"),
    "loss": (str, "the name of a loss, or MODULE:CLASS"),
}
