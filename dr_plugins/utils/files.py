"""File names that mark a shard set, and an opener that accepts only regular files."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MANIFEST_NAME = "manifest.json"
"""Marks the directory of a complete shard set."""

PROGRESS_NAME = "unfinished.json"
"""Marks the directory of an unfinished shard set."""

LOCK_NAME = ".lock"
"""Locked by the process that writes to a directory."""


def regular_only(path: str, flags: int) -> int:
    """An opener for `open` that rejects pipes and devices, which may never end.

    Raises:
        OSError: The path is not a regular file.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor


def cache_directory() -> Path:
    """Return where files are kept that can be made or fetched again: ``$DR_PLUGINS_CACHE``."""
    return Path(os.environ.get("DR_PLUGINS_CACHE") or "~/.cache/dr-plugins").expanduser()
