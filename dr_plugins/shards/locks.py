"""Locks of single numbers in one file, which the system releases when their process ends."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import weakref
from pathlib import Path

from dr_plugins.errors import OutputError

_FLOCK = "hhqqi"  # struct flock of 64-bit Linux: type, whence, start, length, process
_TAKEN = (errno.EAGAIN, errno.EACCES)
_opened: weakref.WeakSet[FileLocks] = weakref.WeakSet()


class FileLocks:
    """Locks of single numbers, held against all other openings of the same file.

    They are open file description locks of one byte each (``F_OFD_SETLK`` in fcntl(2)). They
    exclude other processes and other objects of this process; where the file is on NFS 4, or on
    another file system that shares its locks, also the processes of other machines. A lock ends
    with its process, however that ends; forked children do not have it.

    Args:
        path: The file, created if needed; its content is not used.

    Raises:
        OSError: It cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        _opened.add(self)

    def acquire(self, number: int, *, shared: bool = False, wait: bool = False) -> bool:
        """Lock a number; a number that this object holds already changes its kind.

        Args:
            number: At least 0.
            shared: Allow others to hold it as well, if they share it.
            wait: Wait until it is free.

        Returns:
            Whether the number is locked now; always true after waiting.

        Raises:
            OutputError: The file system has no locks.
        """
        command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
        return self._control(command, fcntl.F_RDLCK if shared else fcntl.F_WRLCK, number)

    def release(self, number: int) -> None:
        """Unlock a number."""
        self._control(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, number)

    def is_held(self, number: int) -> bool:
        """Return whether somebody else holds a number."""
        request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        found = fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, request)
        return struct.unpack_from(_FLOCK, found)[0] != fcntl.F_UNLCK

    def close(self) -> None:
        """Release everything."""
        if self in _opened:  # not in a child, where it is closed already
            _opened.discard(self)
            os.close(self._descriptor)

    def _control(self, command: int, kind: int, number: int) -> bool:
        request = struct.pack(_FLOCK, kind, os.SEEK_SET, number, 1, 0)
        try:
            fcntl.fcntl(self._descriptor, command, request)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            raise OutputError(
                f"cannot lock {self._path}: {error.strerror}. Use a file system with locks (NFS 4; "
                f"Lustre mounted with -o flock)."
            ) from error
        return True


def _close_in_child() -> None:
    """Leave locks to the parent: a worker that hangs would keep them after its parent's death."""
    for locks in list(_opened):
        locks.close()


os.register_at_fork(after_in_child=_close_in_child)
