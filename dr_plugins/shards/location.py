"""Where the files of shard sets are, and local directories: no other module touches them."""

# Location says what its methods do, for all implementations.
# ruff: noqa: D102

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dr_plugins.errors import OutputError
from dr_plugins.shards.locks import FileLocks
from dr_plugins.shards.mapping import map_file
from dr_plugins.utils.files import LOCK_NAME, regular_only

TEMPORARY_SUFFIX = ".tmp"
"""Ends the names of files that are being written."""


class Location(ABC):
    """A shard set's directory, or a file in it; as text, what messages call it.

    What reads raises `OSError`, `FileNotFoundError` where there is nothing. Locations are pickled
    to worker processes.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part of the address."""

    @abstractmethod
    def __truediv__(self, name: str) -> Location:
        """Return the location of a file in this directory."""

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def exists(self) -> bool:
        """Return whether there is something."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of what is in this directory."""

    @abstractmethod
    def size(self) -> int:
        """Return the bytes of this file."""

    def sizes(self) -> dict[str, int]:
        """Return the bytes of files in this directory, so far as one request shows them."""
        return {}

    def absolute(self) -> Location:
        """Return this location as one that does not depend on the working directory."""
        return self

    def stamp(self) -> object:
        """Return what changes with this file's content; None if it is missing or remote."""
        return None

    @abstractmethod
    def read_text(self) -> str:
        """Return the UTF-8 text of this file."""

    @abstractmethod
    def map(self) -> np.ndarray:
        """Return the bytes of this file: uint8 ``[bytes]``, read-only; empty files are errors."""

    @abstractmethod
    def digest(self) -> str:
        """Return the SHA-256 of this file, hexadecimal."""

    def local(self, sha256: str) -> Location:
        """Return this file as one that can be mapped, here unchanged; a remote one is fetched.

        Args:
            sha256: Its expected checksum, hexadecimal; what was fetched is compared with it.

        Raises:
            FormatError: A remote file has another checksum.
        """
        return self

    @abstractmethod
    def write(self, chunks: Iterable[Any]) -> str:
        """Write this file durably; it appears whole, and replaces an older one.

        Args:
            chunks: Bytes-like objects, in order.

        Returns:
            SHA-256 of the file, hexadecimal.

        Raises:
            OutputError: The file cannot be written; an older one stays.
        """

    @abstractmethod
    def remove(self) -> None:
        """Delete this file, if there is one.

        Raises:
            OutputError: It cannot be deleted.
        """

    @abstractmethod
    def modified(self) -> float:
        """Return when this file was written, in seconds since 1970 of its file system's clock."""

    @abstractmethod
    def locks(self) -> contextlib.AbstractContextManager[FileLocks]:
        """Create this directory and open its locks, which are released at the end.

        Raises:
            OutputError: It cannot be created or written to.
        """


@dataclass(frozen=True)
class LocalPath(Location):
    """A directory or file of this machine."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def __truediv__(self, name: str) -> LocalPath:
        return LocalPath(self.path / name)

    def __str__(self) -> str:
        return str(self.path)

    def absolute(self) -> LocalPath:
        return LocalPath(self.path.absolute())

    def exists(self) -> bool:
        return os.path.exists(self.path)  # Path's method raises where it may not look

    def names(self) -> list[str]:
        return os.listdir(self.path)

    def size(self) -> int:
        return os.stat(self.path).st_size

    def stamp(self) -> object:
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    def read_text(self) -> str:
        with open(self.path, encoding="utf-8", opener=regular_only) as file:
            return file.read()

    def map(self) -> np.ndarray:
        return map_file(self.path)

    def digest(self) -> str:
        with open(self.path, "rb", opener=regular_only) as file:
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()

    def write(self, chunks: Iterable[Any]) -> str:
        temporary = self.path.with_name(self.name + TEMPORARY_SUFFIX)
        digest = hashlib.sha256()
        try:
            if self.path.exists() and not self.path.is_file():
                raise OSError(errno.EINVAL, "it is not a regular file")
            with open(temporary, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                    digest.update(chunk)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
            _sync_directory(self.path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise OutputError(
                f"cannot write {self}: {error.strerror or error}. Make it writable or free "
                f"some space, then run the same command again."
            ) from error
        return digest.hexdigest()

    def remove(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot delete {self}: {error.strerror}") from error

    def modified(self) -> float:
        return self.path.stat().st_mtime

    @contextlib.contextmanager
    def locks(self) -> Iterator[FileLocks]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            locks = FileLocks(self.path / LOCK_NAME)
        except OSError as error:
            raise OutputError(
                f"cannot write to {self}: {error.strerror or error}. Choose a writable directory."
            ) from error
        try:
            yield locks
        finally:
            locks.close()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
