"""The first look through archives: which sets they hold, and whether all images are there.

The configuration may be the last of a million members, and an archive may hold several sets (in
folders of their own): so all of it is read once before anything is made. Of each member a checksum
is kept: together they are the identity of the set, and each is compared when its member is
decoded. What was found is written down, so that an interrupted import need not look again.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dr_plugins.errors import FormatError, ReinforcementError
from dr_plugins.mldr.archive import Member, Read, fingerprint, walk
from dr_plugins.mldr.config import Example, SetDescription, parse_config
from dr_plugins.mldr.errors import ArchiveError
from dr_plugins.mldr.members import load_member
from dr_plugins.mldr.order import ImageOrder
from dr_plugins.shards.container import map_tensors, write_tensors

__all__ = ["Part", "inspect", "named"]

_MOST_SETS = 32
_CHECKSUM = np.dtype("<i4")


@dataclass(frozen=True)
class Part:
    """One of ml-dr's sets, in one folder of one archive.

    Attributes:
        archive: Position of its archive.
        folder: Its folder.
        config: Content of ``config.pth.tar``.
        example: What its members hold.
        checksums: int32 ``[images]``, the CRC-32 of each member's bytes, by image number.
    """

    archive: int
    folder: str
    config: Any
    example: Example
    checksums: np.ndarray

    def describe(self, path: Path) -> SetDescription:
        """Read the configuration of the set, which is in the archive `path`.

        Raises:
            ArchiveError: It cannot be imported.
        """
        try:
            return parse_config(self.config, self.example)
        except ArchiveError as error:
            raise named(error, path, f"{self.folder}/config.pth.tar") from error

    def digest(self) -> str:
        """Return the identity of the set's content, however it is packed."""
        config = json.dumps(self.config, sort_keys=True).encode()
        return hashlib.blake2b(config + self.checksums.tobytes(), digest_size=16).hexdigest()

    def check(self, index: int, data: bytes) -> bytes:
        """Return the bytes of an image's member, which must be those that were looked at.

        Raises:
            ArchiveError: They are not.
        """
        if _checksum(data) != self.checksums[index]:
            raise ArchiveError("it has changed since the archive was looked through")
        return data


class _Found:
    """What was found so far of a set of `images` images."""

    def __init__(self, images: int) -> None:
        self.checksums = np.zeros(images, _CHECKSUM)
        self.present = np.zeros(images, bool)
        self.config: Any = None
        self.example: Example | None = None


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
    looked_at = [[path.name, *fingerprint(path)] for path in paths]
    known = _recall(cache, looked_at, len(order))
    if known is not None:
        return known
    parts = [
        part
        for number, path in enumerate(paths)
        for part in _inspect_one(number, path, order, progress)
    ]
    found = [[part.archive, part.folder, part.config, part.example] for part in parts]
    # As one flat array: its length says how many sets there are.
    checksums = {"checksums": np.concatenate([part.checksums for part in parts])}
    write_tensors(cache, checksums, {"archives": json.dumps(looked_at), "sets": json.dumps(found)})
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
            if member.folder not in sets:
                if len(sets) == _MOST_SETS:
                    raise ArchiveError(f"{path} holds sets in more than {_MOST_SETS} folders")
                sets[member.folder] = _Found(len(order))
            try:
                _note(member, read, sets[member.folder], order)
            except ReinforcementError as error:
                raise named(error, path, member.name) from error
    if not sets:
        raise ArchiveError(f"{path} holds no {{number}}.pth.tar: it is none of ml-dr's archives")
    return [_complete(number, path, folder, sets[folder], order) for folder in sorted(sets)]


def _note(member: Member, read: Read, found: _Found, order: ImageOrder) -> None:
    if member.index is None:
        if found.config is not None:
            raise ArchiveError("it is the second configuration in this folder")
        # As it will be recalled: tuples are lists then.
        found.config = json.loads(json.dumps(load_member(read())))
        return
    order.check_index(member.index)
    if found.present[member.index]:
        raise ArchiveError(f"image number {member.index} occurs twice")
    data = read()
    found.present[member.index] = True
    found.checksums[member.index] = _checksum(data)
    if found.example is None:
        found.example = Example.of(load_member(data))


def _checksum(data: bytes) -> int:
    """The CRC-32 as a signed number."""
    return zlib.crc32(data) - (1 << 31)


def _complete(number: int, path: Path, folder: str, found: _Found, order: ImageOrder) -> Part:
    where = f"{path.name}, folder {folder!r}"
    if found.config is None:
        raise ArchiveError(f"{where}: there is no config.pth.tar, so its policy is not known")
    if not found.present.all() or found.example is None:
        first = int(found.present.argmin())
        raise ArchiveError(
            f"{where}: it covers {found.present.sum():,} of {len(order):,} images, "
            f"{order.keys[first]!r} (number {first}) is the first one missing. Name exactly the "
            f"training set that the archive was made from, or download the archive again."
        )
    return Part(number, folder, found.config, found.example, found.checksums)


def _recall(cache: Path, looked_at: list[Any], images: int) -> list[Part] | None:
    if not cache.exists():
        return None
    try:
        arrays, metadata = map_tensors(cache)
        if json.loads(metadata["archives"]) != looked_at:
            return None
        sets = json.loads(metadata["sets"])
        checksums = arrays["checksums"].reshape(len(sets), images)
        return [
            Part(archive, folder, config, Example(*example), row)
            for (archive, folder, config, example), row in zip(sets, checksums, strict=True)
        ]
    except (FormatError, ValueError, LookupError, TypeError):
        return None
