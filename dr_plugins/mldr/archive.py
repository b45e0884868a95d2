"""Stream the members of an archive without unpacking it.

This module parses the tar format because `tarfile` keeps an object for each of a million members
and reads extended headers of any stated size into memory; `tarfile.TarInfo` parses the headers.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import re
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dr_plugins.mldr.errors import ArchiveError
from dr_plugins.mldr.serialization import MAX_MEMBER_BYTES

_BLOCK = 512
_CHUNK = 1 << 20
_LARGEST_HEADER = 1 << 16
_LONGEST_PADDING = 16 << 20
_EXTENDED, _GLOBAL = b"x", b"g"
_OVERRIDES = re.compile(rb"^\d+ (path|size|linkpath|GNU\.sparse[^=]*)=", re.MULTILINE)
_NAME = re.compile(r"(?:(?P<folder>.*)/)?(?:(?P<index>[0-9]{1,9})|config)\.(?:pth\.tar|jb)")
Read = Callable[[], bytes]
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Member:
    """A file in an archive that ml-dr wrote.

    Attributes:
        name: Its name in the archive.
        folder: The part before the last ``/``; empty if there is none.
        index: The image's number; None for the configuration.
    """

    name: str
    folder: str
    index: int | None


def iter_members(path: Path, progress: Progress | None = None) -> Iterator[tuple[Member, Read]]:
    """Yield an archive's members in storage order.

    Args:
        path: A ``.tar.gz`` or ``.tar`` file, or the directory it unpacks to.
        progress: Called with the number of bytes of the file consumed since the last call (never
            for a directory).

    Yields:
        A member and a function that reads its content, which is valid until the next member.

    Raises:
        ArchiveError: The archive is missing, truncated or damaged, or holds links, devices, unsafe
            names or members larger than ml-dr writes.
    """
    with _archive_errors(path):
        members = (
            _directory_members(path)
            if path.is_dir()
            else _tar_members(path, progress or (lambda count: None))
        )
        for member, read in members:
            yield member, functools.partial(_read, path, read)


def fingerprint(path: Path) -> list[int | str]:
    """Return file metadata that changes when an archive is replaced or modified.

    Raises:
        ArchiveError: It is missing or cannot be read.
    """
    with _archive_errors(path):
        if not path.is_dir():
            return _file_state(path.stat())
        digest = hashlib.blake2b(digest_size=16)
        for entry, name in sorted(_entries(path), key=lambda found: found[1]):
            digest.update(repr([name, *_file_state(entry.stat(follow_symlinks=False))]).encode())
        return [digest.hexdigest()]


def _file_state(found: os.stat_result) -> list[int | str]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _read(path: Path, read: Read) -> bytes:
    with _archive_errors(path):
        return read()


@contextmanager
def _archive_errors(path: Path) -> Iterator[None]:
    """Convert I/O and decompression errors to `ArchiveError`."""
    try:
        yield
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ArchiveError(
            f"{path} is truncated or damaged ({error}). Download it again; finished work is kept."
        ) from error
    except OSError as error:
        raise ArchiveError(f"cannot read {error.filename or path}: {error.strerror}") from error


def _parse(name: str, where: Path) -> Member | None:
    """Return the member with this name; None for files that ml-dr does not write."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable():
        raise ArchiveError(f"{where}: the member name {name!r:.200} is unsafe")
    found = _NAME.fullmatch("/".join(part for part in parts if part not in ("", ".")))
    if found is None:
        return None
    index = found["index"]
    return Member(name, found["folder"] or "", None if index is None else int(index))


def _directory_members(root: Path) -> Iterator[tuple[Member, Read]]:
    for entry, name in _entries(root):
        if entry.is_symlink():
            raise ArchiveError(
                f"{entry.path} is a link, which ml-dr does not write; replace it with the file"
            )
        if entry.is_file() and (member := _parse(name, root)) is not None:
            _check_size(member.name, entry.stat().st_size, root)
            yield member, Path(entry.path).read_bytes


def _entries(root: Path) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield all entries below a directory except directories, with their relative names."""
    folders = [""]
    while folders:
        below = folders.pop()
        with os.scandir(root / below) as entries:
            for entry in entries:
                name = f"{below}/{entry.name}" if below else entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                else:
                    yield entry, name


def _check_size(name: str, size: int, where: Path) -> None:
    if size > MAX_MEMBER_BYTES:
        raise ArchiveError(
            f"{where}: member {name!r:.200} has {size:,} bytes; ml-dr writes at most "
            f"{MAX_MEMBER_BYTES:,}"
        )


def _tar_members(path: Path, progress: Progress) -> Iterator[tuple[Member, Read]]:
    with _opened(path, progress) as stream:
        while (info := stream.next_header()) is not None:
            member = _accept(info, stream, path)
            if member is not None:
                yield member, lambda size=info.size: stream.read(size)  # type: ignore[misc]


def _accept(info: tarfile.TarInfo, stream: _Stream, path: Path) -> Member | None:
    if info.type in (_EXTENDED, _GLOBAL):
        if info.size > _LARGEST_HEADER:
            raise ArchiveError(f"{path}: an extended header of {info.size:,} bytes is refused")
        if _OVERRIDES.search(stream.read(info.size)):
            raise ArchiveError(f"{path}: an extended header renames or resizes a member, refused")
        return None
    if info.isdir():
        return None
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise ArchiveError(
            f"{path}: member {info.name!r:.200} has type {info.type!r} (a link, a device or the "
            f"like), expected a regular file"
        )
    _check_size(info.name, info.size, path)  # for skipped files too: skipping reads them
    return _parse(info.name, path)


@contextmanager
def _opened(path: Path, progress: Progress) -> Iterator[_Stream]:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe cannot be read twice and may never end
        raise ArchiveError(f"{path} is neither a file nor a directory")
    with open(path, "rb") as raw:
        start = raw.read(_BLOCK)
        raw.seek(0)
        if start[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=raw) as file:
                yield _Stream(file, raw, path, progress)
        elif start[257:262] == b"ustar":
            yield _Stream(raw, raw, path, progress)
        else:
            raise ArchiveError(
                f"{path} is neither a gzip nor a tar file: it starts with {start[:16]!r}"
            )


class _Stream:
    """A tar file, read sequentially."""

    def __init__(
        self, file: IO[bytes] | gzip.GzipFile, raw: Any, path: Path, progress: Progress
    ) -> None:
        self._file, self._raw, self._path, self._progress = file, raw, path, progress
        self._seekable = file is raw
        self._unread = 0  # bytes before the next header
        self._reported = 0

    def next_header(self) -> tarfile.TarInfo | None:
        """Skip to the next header; None at the end of the archive."""
        self._skip(self._unread)
        block = self._exactly(_BLOCK)
        position = self._raw.tell()
        self._progress(position - self._reported)
        self._reported = position
        if block == bytes(_BLOCK):
            self._drain()
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ArchiveError(f"{self._path} is damaged: a member's header is {error}") from error
        if info.size < 0:
            raise ArchiveError(f"{self._path} is damaged: a member has {info.size} bytes")
        self._unread = -(-info.size // _BLOCK) * _BLOCK if info.isreg() else 0
        if info.type in (_EXTENDED, _GLOBAL):
            self._unread = -(-info.size // _BLOCK) * _BLOCK
        return info

    def read(self, size: int) -> bytes:
        """Return the content of the current member."""
        data = self._exactly(size)
        self._unread -= size
        return data

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise EOFError("it ends inside a member")
        return data

    def _skip(self, size: int) -> None:
        if self._seekable:
            self._file.seek(size, os.SEEK_CUR)
            return
        while size:
            size -= len(self._exactly(min(size, _CHUNK)))

    def _drain(self) -> None:
        """Read the padding to make gzip verify its checksum."""
        for _ in range(_LONGEST_PADDING // _CHUNK):
            if not self._file.read(_CHUNK):
                return
        raise ArchiveError(
            f"{self._path} has data after the end of the archive: it is damaged or not an archive"
        )
