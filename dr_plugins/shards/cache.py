"""The local cache of remote files: named by their SHA-256, shared by all processes of a machine.

``$DR_PLUGINS_CACHE`` is its directory, ``~/.cache/dr-plugins`` by default; ``$DR_PLUGINS_CACHE_GB``
limits its size. A file appears under its name when it is whole and its checksum fits, so whatever
kills a process leaves no damaged file. The files used longest ago make room for new ones; a file
that is still mapped stays readable.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import filelock

from dr_plugins.errors import FormatError, OutputError
from dr_plugins.shards.location import LocalPath
from dr_plugins.utils.files import cache_directory

if TYPE_CHECKING:
    from dr_plugins.shards.remote import RemotePath

_FOLDERS = ("partial", "files", "statistics", "archives")  # what may be deleted
_DOWNLOADS = 2  # of a file whose checksum does not fit, before it counts as damaged
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # a disk that takes nothing more
_logger = logging.getLogger(__name__)


def cached(file: RemotePath, sha256: str) -> LocalPath:
    """Return a file's copy in the cache, after fetching it where it is not there.

    Args:
        file: The remote file.
        sha256: Its expected checksum, hexadecimal.

    Raises:
        FormatError: The remote file has another checksum.
        OSError: It cannot be fetched.
        OutputError: The cache cannot be written to.
    """
    found = find(sha256)
    if found is None:
        with _lock(sha256):
            found = find(sha256) or _fetch(file, sha256)  # another process may have been faster
    return found


def find(sha256: str) -> LocalPath | None:
    """Return a file of the cache and mark it as used; None if it is not there."""
    path = cache_directory() / "files" / sha256
    try:
        os.utime(path)
    except FileNotFoundError:
        return None
    except OSError:  # a cache that is only readable is as good, where it holds the file
        return LocalPath(path) if os.path.exists(path) else None
    return LocalPath(path)


def discard_damaged(sha256: str) -> bool:
    """Delete a file of the cache if it is damaged; return whether it was."""
    found = find(sha256)
    if found is None:
        return False
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        if found.digest() == sha256:
            return False
        found.remove()
    return True


def discard_leftovers() -> None:
    """Delete what killed processes left of arriving files, which the limit does not count."""
    for path in (cache_directory() / "arriving").glob("*"):
        lock = filelock.FileLock(cache_directory() / "locks" / path.name)
        with contextlib.suppress(OSError), lock.acquire(timeout=0):  # Timeout is one of these
            path.unlink(missing_ok=True)


def limit() -> float:
    """Return the most bytes that the cache may hold; infinite by default.

    Raises:
        OutputError: ``$DR_PLUGINS_CACHE_GB`` is not a positive number.
    """
    text = os.environ.get("DR_PLUGINS_CACHE_GB", "inf")
    with contextlib.suppress(ValueError):
        if (size := float(text)) > 0:
            return size * 1e9
    raise OutputError(f"DR_PLUGINS_CACHE_GB is {text!r}; expected a positive number of gigabytes")


def make_room(size: int, keep: frozenset[str] = frozenset()) -> bool:
    """Delete the files used longest ago until another one fits.

    Args:
        size: Bytes of the file to come.
        keep: Checksums of files to keep.

    Returns:
        Whether it fits.
    """
    most = limit()
    if most == float("inf"):
        return True
    files = []
    for folder in _FOLDERS:
        for path in (cache_directory() / folder).glob("*"):
            with contextlib.suppress(OSError):  # another process deletes as well
                state = path.stat()
                files.append((state.st_mtime, state.st_blocks * 512, path))
    total = sum(used for _, used, _ in files)
    for _, used, path in sorted(files):
        if total + size <= most:
            break
        if path.name not in keep:
            path.unlink(missing_ok=True)
            total -= used
    return total + size <= most


def _fetch(file: RemotePath, sha256: str) -> LocalPath:
    target, temporary = (
        cache_directory() / "files" / sha256,
        cache_directory() / "arriving" / sha256,
    )
    with writing():
        for path in (target, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_DOWNLOADS):
        try:
            with writing(only=FULL):
                file.download(temporary)
            found = LocalPath(temporary).digest()
            if found == sha256:
                make_room(temporary.stat().st_size, frozenset({sha256}))
                os.replace(temporary, target)
                return LocalPath(target)
        finally:
            temporary.unlink(missing_ok=True)
        _logger.warning("%s arrived with checksum %s, expected %s", file, found, sha256)
    raise FormatError(
        f"{file} is damaged, or not the file that the manifest names: its SHA-256 is {found}, "
        f"expected {sha256}. Copy it there again."
    )


@contextlib.contextmanager
def writing(only: tuple[int, ...] | None = None) -> Iterator[None]:
    """Name the cache in errors of writing to it.

    Args:
        only: Numbers of the errors; None means all but missing files.

    Raises:
        OutputError: Instead of such an error.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        raise OutputError(
            f"cannot write to the cache {cache_directory()}: {error.strerror or error}. Let "
            f"$DR_PLUGINS_CACHE name a writable directory with enough space, or limit it by "
            f"$DR_PLUGINS_CACHE_GB."
        ) from error


@contextlib.contextmanager
def _lock(sha256: str) -> Iterator[None]:
    folder = cache_directory() / "locks"
    lock = filelock.FileLock(folder / sha256)
    with writing():
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
