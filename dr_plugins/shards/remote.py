"""Shard sets on web servers, in object stores and on the Hub, read through fsspec."""

# Location says what its methods do, for all implementations.
# ruff: noqa: D102

from __future__ import annotations

import contextlib
import errno
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np

from dr_plugins.errors import FormatError, OutputError
from dr_plugins.shards.cache import FULL, cached
from dr_plugins.shards.location import Location
from dr_plugins.shards.locks import FileLocks

_Result = TypeVar("_Result")

_ATTEMPTS, _FIRST_WAIT, _LONGEST_WAIT = 6, 0.5, 8.0  # the waits in seconds; about 15 in all
_SILENCE = 30.0  # seconds after which a silent web server counts as lost
# Trying again does not help against these.
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, ValueError, TypeError)
_BUSY = (408, 425, 429)  # answers of a web server; others from 400 to 499 are its last word
# What fsspec's file systems call a file's version.
_VERSIONS = ("etag", "content_md5", "lastmodified", "last_modified", "generation", "blob_id")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


@dataclass(frozen=True)
class RemotePath(Location):
    """A directory or file that fsspec reads; its credentials and options come from fsspec's config.

    Attributes:
        address: Such as ``"s3://bucket/imagenet-plus"`` or ``"hf://datasets/OWNER/NAME"``.
    """

    address: str

    @property
    def name(self) -> str:
        return self.address.rstrip("/").rpartition("/")[2]

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.address.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.address

    def exists(self) -> bool:
        self._forget()
        try:
            self._call("info")  # fsspec's `exists` takes any error for no
        except FileNotFoundError:
            return False
        return True

    def names(self) -> list[str]:
        self._forget()
        return [Path(name).name for name in self._call("ls", detail=False)]

    def size(self) -> int:
        return int(self._call("size"))

    def sizes(self) -> dict[str, int]:
        self._forget()
        found = self._call("ls", detail=True)  # a web server's listing has no sizes
        return {Path(f["name"]).name: f["size"] for f in found if f.get("size") is not None}

    def read_text(self) -> str:
        self._forget()
        return bytes(self._call("cat_file")).decode()

    def map(self) -> np.ndarray:
        return np.frombuffer(self._call("cat_file"), np.uint8)

    def digest(self) -> str:
        return hashlib.sha256(self._call("cat_file")).hexdigest()

    def local(self, sha256: str) -> Location:
        return cached(self, sha256)

    def download(self, target: Path) -> None:
        """Write this file's bytes to a local file, replacing it.

        Raises:
            OSError: They cannot be read; `FileNotFoundError` if there is no such file.
        """
        self._call("get_file", str(target))

    def write(self, chunks: Iterable[Any]) -> str:
        self.refuse()

    def remove(self) -> None:
        self.refuse()

    def modified(self) -> float:
        return float(self._call("modified").timestamp())

    def version(self) -> dict[str, str]:
        """Return what the server says that changes with this file's content; may be empty."""
        facts = self._call("info").items()
        return {k: str(v) for k, v in facts if k.lower().replace("-", "_") in _VERSIONS}

    def locks(self) -> contextlib.AbstractContextManager[FileLocks]:
        self.refuse()

    def _forget(self) -> None:
        """Forget the listings that fsspec keeps: files may have come since."""
        filesystem(self.address)[0].invalidate_cache()

    def refuse(self) -> NoReturn:
        """Say that nothing can be written here.

        Raises:
            OutputError: Always.
        """
        raise OutputError(
            f"cannot write {self}: shard sets are made in a local directory; then copy them with "
            f"`dr-plugins push DIRECTORY {self}`"
        )

    def _call(self, method: str, *args: Any, **options: Any) -> Any:
        """Call a method of the file system with this path, again if the connection fails."""
        files, path = filesystem(self.address)
        return _attempt(self.address, lambda: getattr(files, method)(path, *args, **options))


def read_ranges(
    files: Sequence[RemotePath], starts: Sequence[int], ends: Sequence[int]
) -> list[bytes | None]:
    """Read a range of bytes from each of several files of one server, all at the same time.

    Args:
        files: The files, in any order, repeated as needed.
        starts: First byte of each range.
        ends: The byte after each range.

    Returns:
        The bytes of each range; None where it could not be read, or the server sent another number
        of bytes.
    """
    if not files:
        return []
    found: list[bytes | None] = [None] * len(files)
    system, _ = filesystem(files[0].address)
    paths = [system._strip_protocol(file.address) for file in files]
    for _ in range(2):  # what fails twice is read with the whole file, which is tried more often
        wanted = [i for i, data in enumerate(found) if data is None]
        if not wanted:
            break
        with contextlib.suppress(Exception):  # each is found to be missing below
            answers = system.cat_ranges(
                [paths[i] for i in wanted],
                [starts[i] for i in wanted],
                [ends[i] for i in wanted],
                on_error="return",
            )
            for i, data in zip(wanted, answers, strict=True):
                if isinstance(data, bytes) and len(data) == ends[i] - starts[i]:
                    found[i] = data
    return found


def filesystem(address: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, for this process, and the path in it.

    Raises:
        FormatError: The scheme is unknown, or its package is not installed.
    """
    scheme = address.partition("://")[0]
    try:
        from fsspec.core import url_to_fs

        files, path = url_to_fs(address, **_options(scheme))
        return files, path
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(scheme, "remote")
        raise FormatError(
            f"cannot read {address}: {error}. Reading {scheme}:// needs pip install "
            f"'dr-plugins[{extra}]', or the package of fsspec for it."
        ) from error


def _options(scheme: str) -> dict[str, Any]:
    if scheme not in ("http", "https"):
        return {}
    import aiohttp

    limits = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
    return {"client_kwargs": {"timeout": limits}}


def _may_pass(error: BaseException) -> bool:
    if not isinstance(error, Exception):  # Ctrl-C
        return False
    full = isinstance(error, OSError) and error.errno in FULL
    status = getattr(error, "status", None)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in _BUSY
    return not full and not refused and not isinstance(error, _PERMANENT)


def _attempt(address: str, call: Callable[[], _Result]) -> _Result:
    import tenacity

    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_random_exponential(_FIRST_WAIT, _LONGEST_WAIT),
        reraise=True,
    )
    try:
        return attempts(call)
    except OSError:
        raise
    except Exception as error:  # each server's library has errors of its own
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", address) from error
