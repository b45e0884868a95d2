"""Scan archives for the sets they hold, and check that no image is missing.

The configuration may be the last of a million members, and an archive may hold several sets (in
separate folders), so each archive is scanned once before the import. The scan keeps a checksum of
each member: together they identify the set, and each is compared when its member is decoded. The
result is cached, so an interrupted import does not scan again.
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
from dr_plugins.mldr.archive import Member, Read, fingerprint, iter_members
from dr_plugins.mldr.config import Example, SetDescription, parse_config
from dr_plugins.mldr.errors import ArchiveError
from dr_plugins.mldr.order import ImageOrder
from dr_plugins.mldr.serialization import load_member
from dr_plugins.shards.container import map_tensors, write_tensors

_MOST_SETS = 32
_CHECKSUM = np.dtype("<i4")


@dataclass(frozen=True)
class ArchivedSet:
    """One of ml-dr's sets: one folder of one archive.

    Attributes:
        archive: Index of the archive.
        folder: The folder.
        config: Content of ``config.pth.tar``.
        example: Description of its members.
        checksums: int32 ``[images]``, the CRC-32 of each member's bytes, by image number.
    """

    archive: int
    folder: str
    config: Any
    example: Example
    checksums: np.ndarray

    def describe(self, path: Path) -> SetDescription:
        """Parse the configuration of the set.

        Args:
            path: The archive, for messages.

        Raises:
            ArchiveError: The set cannot be imported.
        """
        try:
            return parse_config(self.config, self.example)
        except ArchiveError as error:
            raise named(error, path, f"{self.folder}/config.pth.tar") from error

    def digest(self) -> str:
        """Return a digest of the set's content that does not depend on how it is packed."""
        config = json.dumps(self.config, sort_keys=True).encode()
        return hashlib.blake2b(config + self.checksums.tobytes(), digest_size=16).hexdigest()

    def check(self, index: int, data: bytes) -> bytes:
        """Return `data` if it is what the scan saw as the member of an image.

        Raises:
            ArchiveError: The member has changed.
        """
        if _checksum(data) != self.checksums[index]:
            raise ArchiveError("it has changed since the archive was scanned")
        return data


class _ScanResult:
    """Scan results so far for a set of `images` images."""

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
) -> list[ArchivedSet]:
    """Scan archives, or return the cached result.

    Args:
        paths: The archives.
        order: The images.
        cache: File for the result.
        progress: Show a progress bar.

    Returns:
        The sets, by archive and folder.

    Raises:
        ArchiveError: An archive is damaged or unsafe, or has no configuration, or images are
            missing.
    """
    fingerprints = [[path.name, *fingerprint(path)] for path in paths]
    known = _load_cache(cache, fingerprints, len(order))
    if known is not None:
        return known
    sets = [
        one
        for number, path in enumerate(paths)
        for one in _inspect_one(number, path, order, progress)
    ]
    found = [[one.archive, one.folder, one.config, one.example] for one in sets]
    # One flat array; its length gives the number of sets.
    checksums = {"checksums": np.concatenate([one.checksums for one in sets])}
    write_tensors(
        cache, checksums, {"archives": json.dumps(fingerprints), "sets": json.dumps(found)}
    )
    return sets


def _inspect_one(number: int, path: Path, order: ImageOrder, progress: bool) -> list[ArchivedSet]:
    sets: dict[str, _ScanResult] = {}
    size = path.stat().st_size if path.is_file() else None
    with tqdm(
        desc=f"scanning {path.name}",
        total=size,
        unit="B",
        unit_scale=True,
        disable=not progress or size is None,
    ) as bar:
        for member, read in iter_members(path, bar.update):
            if member.folder not in sets:
                if len(sets) == _MOST_SETS:
                    raise ArchiveError(f"{path} holds sets in more than {_MOST_SETS} folders")
                sets[member.folder] = _ScanResult(len(order))
            try:
                _scan(member, read, sets[member.folder], order)
            except ReinforcementError as error:
                raise named(error, path, member.name) from error
    if not sets:
        raise ArchiveError(f"{path} holds no {{number}}.pth.tar: it is not an archive of ml-dr")
    return [_complete(number, path, folder, sets[folder], order) for folder in sorted(sets)]


def _scan(member: Member, read: Read, found: _ScanResult, order: ImageOrder) -> None:
    if member.index is None:
        if found.config is not None:
            raise ArchiveError("this folder has two configurations")
        # As the cache returns it: JSON turns tuples into lists.
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
    """Return the CRC-32 shifted to a signed 32-bit integer."""
    return zlib.crc32(data) - (1 << 31)


def _complete(
    number: int, path: Path, folder: str, found: _ScanResult, order: ImageOrder
) -> ArchivedSet:
    where = f"{path.name}, folder {folder!r}"
    if found.config is None:
        raise ArchiveError(f"{where}: there is no config.pth.tar, so the policy is unknown")
    if not found.present.all() or found.example is None:
        first = int(found.present.argmin())
        raise ArchiveError(
            f"{where}: it covers {found.present.sum():,} of {len(order):,} images; the "
            f"first one missing is {order.keys[first]!r} (number {first}). Pass exactly the "
            f"training set that the archive was made from, or download the archive again."
        )
    return ArchivedSet(number, folder, found.config, found.example, found.checksums)


def _load_cache(cache: Path, fingerprints: list[Any], images: int) -> list[ArchivedSet] | None:
    if not cache.exists():
        return None
    try:
        arrays, metadata = map_tensors(cache)
        if json.loads(metadata["archives"]) != fingerprints:
            return None
        sets = json.loads(metadata["sets"])
        checksums = arrays["checksums"].reshape(len(sets), images)
        return [
            ArchivedSet(archive, folder, config, Example(*example), row)
            for (archive, folder, config, example), row in zip(sets, checksums, strict=True)
        ]
    except (FormatError, ValueError, LookupError, TypeError):
        return None
