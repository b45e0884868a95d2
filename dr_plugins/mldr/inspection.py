"""The first look through archives: which sets they hold, and whether all images are there.

The configuration may be the last of a million members, and an archive may hold several sets (in
folders of their own): so all of it is read once before anything is made. Nothing is kept but one
bit for each member. What was found is written down, so that an interrupted import need not look
again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dr_plugins.errors import ReinforcementError
from dr_plugins.mldr.archive import Member, Read, walk
from dr_plugins.mldr.config import Example, SetDescription, parse_config
from dr_plugins.mldr.errors import ArchiveError
from dr_plugins.mldr.members import load_member
from dr_plugins.mldr.order import ImageOrder
from dr_plugins.shards.container import write_file

__all__ = ["Part", "inspect", "named"]


@dataclass(frozen=True)
class Part:
    """One of ml-dr's sets, in one folder of one archive.

    Attributes:
        archive: Position of its archive.
        folder: Its folder.
        config: Content of ``config.pth.tar``.
        example: What its members hold.
    """

    archive: int
    folder: str
    config: Any
    example: Example

    def describe(self, path: Path) -> SetDescription:
        """Read the configuration of the set, which is in the archive `path`.

        Raises:
            ArchiveError: It cannot be imported.
        """
        try:
            return parse_config(self.config, self.example)
        except ArchiveError as error:
            raise named(error, path, f"{self.folder}/config.pth.tar") from error


@dataclass
class _Found:
    images: bytearray
    config: Any = None
    example: Example | None = None
    count: int = field(default=0)


def named(error: ReinforcementError, path: Path, member: str) -> ReinforcementError:
    """Return an error like `error` that names the archive and the member."""
    return type(error)(f"{path.name}, member {member!r}: {error}")


def inspect(
    paths: Sequence[Path], order: ImageOrder, cache: Path, *, progress: bool = False
) -> list[Part]:
    """Look through archives, unless that was done before.

    Args:
        paths: The archives.
        order: The images.
        cache: File to remember the findings in.
        progress: Show a progress bar.

    Returns:
        The sets, by archive and folder.

    Raises:
        ArchiveError: An archive is damaged or unsafe, lacks images or its configuration.
    """
    identity = [_identity(path) for path in paths] + [len(order)]
    known = _recall(cache, identity)
    if known is not None:
        return known
    parts = [
        part
        for number, path in enumerate(paths)
        for part in _inspect_one(number, path, order, progress)
    ]
    found = {"identity": identity, "parts": [[*vars(part).values()] for part in parts]}
    write_file(cache, [json.dumps(found).encode()])
    return parts


def _inspect_one(number: int, path: Path, order: ImageOrder, progress: bool) -> list[Part]:
    sets: dict[str, _Found] = {}
    size = path.stat().st_size if path.is_file() else None
    with tqdm(
        desc=f"looking through {path.name}",
        total=size,
        unit="B",
        unit_scale=True,
        disable=not progress or size is None,
    ) as bar:
        for member, read in walk(path, bar.update):
            found = sets.setdefault(member.folder, _Found(bytearray(len(order))))
            try:
                _note(member, read, found, order)
            except ReinforcementError as error:
                raise named(error, path, member.name) from error
    if not sets:
        raise ArchiveError(f"{path} holds no {{number}}.pth.tar: it is none of ml-dr's archives")
    return [_complete(number, path, folder, sets[folder], order) for folder in sorted(sets)]


def _note(member: Member, read: Read, found: _Found, order: ImageOrder) -> None:
    if member.index is None:
        found.config = load_member(read())
        return
    order.check_index(member.index)
    if found.images[member.index]:
        raise ArchiveError(f"image number {member.index} occurs twice")
    found.images[member.index] = 1
    found.count += 1
    if found.example is None:
        found.example = Example.of(load_member(read()))


def _complete(number: int, path: Path, folder: str, found: _Found, order: ImageOrder) -> Part:
    where = f"{path.name}, folder {folder!r}"
    if found.config is None:
        raise ArchiveError(f"{where}: there is no config.pth.tar, so its policy is not known")
    if found.count != len(order) or found.example is None:
        first = found.images.index(0)
        raise ArchiveError(
            f"{where}: it covers {found.count:,} of {len(order):,} images, {order.keys[first]!r} "
            f"(number {first}) is the first one missing. Name exactly the training set that the "
            f"archive was made from, or download the archive again."
        )
    return Part(number, folder, found.config, found.example)


def _identity(path: Path) -> list[Any]:
    try:
        status = path.stat()
    except OSError as error:
        raise ArchiveError(f"cannot read {path}: {error.strerror}") from error
    return [path.name, status.st_size if path.is_file() else 0, status.st_mtime_ns]


def _recall(cache: Path, identity: list[Any]) -> list[Part] | None:
    try:
        found = json.loads(cache.read_text(encoding="utf-8"))
        if found["identity"] != identity:
            return None
        return [Part(n, folder, config, Example(*e)) for n, folder, config, e in found["parts"]]
    except (OSError, ValueError, LookupError, TypeError):
        return None
