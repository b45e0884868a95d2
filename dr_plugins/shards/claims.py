"""Who makes which shard: what the processes that write to one directory agree on.

All of it is locks of numbers in one file of the directory, so nothing is left behind by a process
that is killed, and no clock or message is needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from dr_plugins.errors import LockedError
from dr_plugins.shards.address import Place, located
from dr_plugins.shards.location import Location
from dr_plugins.shards.locks import FileLocks

# Numbers that are locked. A lock is held alone, unless it says shared.
_DIRECTORY = 0  # shared by processes that make shards; or held by one that wants no others
_CHANGES = 1  # held while the set is prepared or finished
_WORKING = 2  # shared by processes that make shards
_SHARDS = 16  # the first shard's


@contextlib.contextmanager
def locked(directory: Place) -> Iterator[None]:
    """Create a directory and be the only process that writes to it.

    Raises:
        LockedError: Another process writes to it.
        OutputError: It cannot be created or written to.
    """
    place = located(directory)
    with place.locks() as locks:
        _take_directory(locks, place, shared=False)
        yield


@contextlib.contextmanager
def joined(directory: Place) -> Iterator[Claims]:
    """Create a directory and make shards in it, together with other processes.

    Raises:
        LockedError: Another process wants to be the only one.
        OutputError: It cannot be created or written to.
    """
    place = located(directory)
    with place.locks() as locks:
        _take_directory(locks, place, shared=True)
        yield Claims(locks)


def waited_for_others(directory: Place) -> None:
    """Return when no process makes shards in a directory, which exists."""
    with located(directory).locks() as locks:
        locks.acquire(_WORKING, wait=True)


class Claims:
    """The claims of one process; see `joined`."""

    def __init__(self, locks: FileLocks) -> None:
        self._locks = locks

    @contextlib.contextmanager
    def preparing(self) -> Iterator[bool]:
        """Prepare the set while no other process does; then this one counts as working.

        Yields:
            Whether no other process works.
        """
        self._locks.acquire(_CHANGES, wait=True)
        try:
            yield self._locks.acquire(_WORKING)
            self._locks.acquire(_WORKING, shared=True, wait=True)
        finally:
            self._locks.release(_CHANGES)

    @contextlib.contextmanager
    def finishing(self) -> Iterator[None]:
        """Finish the set while no other process does."""
        self._locks.acquire(_CHANGES, wait=True)
        try:
            yield
        finally:
            self._locks.release(_CHANGES)

    def take(self, number: int, *, wait: bool = False) -> bool:
        """Claim a shard, if `wait` as soon as its present owner gives it back or ends.

        Returns:
            Whether it is claimed now.
        """
        return self._locks.acquire(_SHARDS + number, wait=wait)

    def give_back(self, number: int) -> None:
        """Let others claim a shard."""
        self._locks.release(_SHARDS + number)

    def is_taken(self, number: int) -> bool:
        """Return whether another process has claimed a shard."""
        return self._locks.is_held(_SHARDS + number)


def _take_directory(locks: FileLocks, place: Location, *, shared: bool) -> None:
    if not locks.acquire(_DIRECTORY, shared=shared):
        raise LockedError(
            f"another process is writing to {place}; wait for it, or choose another directory"
        )
