"""Files: names that mark a shard set, and opening what may be anything."""

from __future__ import annotations

import errno
import os
import stat

__all__ = ["LOCK_NAME", "MANIFEST_NAME", "PROGRESS_NAME", "regular_only"]

MANIFEST_NAME = "manifest.json"
"""In the directory of a complete shard set."""

PROGRESS_NAME = "unfinished.json"
"""In the directory of one that is being made."""

LOCK_NAME = ".lock"
"""Held by the one process that writes to a directory."""


def regular_only(path: str, flags: int) -> int:
    """An opener for `open` that refuses pipes and devices, which may never end.

    Raises:
        OSError: The path is no regular file.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor
