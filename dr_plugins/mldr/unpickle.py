"""Load untrusted pickles of plain data: nothing is executed, and the cost is bounded by the size.

This is a custom interpreter for the few opcodes of plain data, not a `pickle.Unpickler` with a
class filter: the C implementation lets a pickle of a few bytes allocate gigabytes (a memo index of
2**31), hash a nested tuple for hours (as a dictionary key) or overflow the C stack doing so, and it
calls everything that passes the filter with arbitrary arguments.

Supported are None, booleans, integers of up to 8 bytes, floats, strings, lists, tuples,
dictionaries with string keys, and numpy scalars, which become Python numbers. A container cannot
appear twice (except tuples of up to four integers), so the result is a tree whose size is bounded
by that of the pickle. A string can (repeating it costs two bytes), so its length is bounded, and so
is the total length of all repetitions: serializing the result cannot produce gigabytes.
"""

from __future__ import annotations

import struct
from typing import Any

from dr_plugins.mldr.errors import ArchiveError, UnsafePickleError
from dr_plugins.mldr.pickle_machine import Machine
from dr_plugins.mldr.pickle_opcodes import OPERATIONS, STOP

MAX_PICKLE_BYTES = 8 << 20
"""Maximum length of a pickle in bytes: an image with about 40,000 reinforcements."""

_MAX_DEPTH = 16
_MAX_OBJECTS = 1 << 20
_HARMLESS_BYTES = 1 << 20  # a pickle of this length cannot exceed _MAX_OBJECTS
_MAKERS = b"]})t\x85\x86\x87\x94qrhj("  # opcodes that need much more memory than their size
_PLAIN = frozenset({type(None), bool, int, float, str})
_CONTAINERS = frozenset({list, tuple, dict})


def loads(data: bytes) -> Any:
    """Return the plain data that a pickle of protocol 2 to 5 holds.

    Args:
        data: The whole pickle, up to `MAX_PICKLE_BYTES`.

    Raises:
        UnsafePickleError: It holds anything other than plain data, or too much of it.
        ArchiveError: It is truncated or damaged.

    Example:
        >>> import os, pickle
        >>> loads(pickle.dumps({"params": [(1, 2), None], "prob": 0.5}))
        {'params': [(1, 2), None], 'prob': 0.5}
        >>> loads(pickle.dumps(os.getcwd))
        Traceback (most recent call last):
        dr_plugins.mldr.errors.UnsafePickleError: the pickle asks for posix.getcwd at byte 29
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise UnsafePickleError(
            f"the pickle has {len(data):,} bytes; the limit is {MAX_PICKLE_BYTES:,}"
        )
    # Bytes inside numbers and strings are counted too; they are few, and this is fast.
    if len(data) > _HARMLESS_BYTES and sum(map(data.count, _MAKERS)) > _MAX_OBJECTS:
        raise UnsafePickleError(f"the pickle holds more than {_MAX_OBJECTS:,} objects")
    machine, at = Machine(data), 0
    try:
        while at != STOP:
            at = OPERATIONS[data[at]](machine, at + 1)
        result = machine.stack.pop()
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise ArchiveError(
            f"the pickle is truncated or damaged near byte {at}: {error!r}"
        ) from None
    if machine.stack or machine.end != len(data):
        raise ArchiveError(f"the pickle ends at byte {machine.end} of {len(data)}: it is damaged")
    _check_depth(result)
    return result


def _check_depth(result: Any) -> None:
    level = [(result,)]
    for _ in range(_MAX_DEPTH):
        level = [item for box in level for item in _nested(box)]
        if not level:
            return
    raise UnsafePickleError(f"the pickle nests containers more than {_MAX_DEPTH} deep")


def _nested(box: Any) -> list[Any]:
    """Return the containers in a container."""
    items = box.values() if type(box) is dict else box
    if _PLAIN.issuperset(map(type, items)):
        return []
    nested = [item for item in items if type(item) not in _PLAIN]
    if not _CONTAINERS.issuperset(map(type, nested)):
        raise UnsafePickleError("the pickle holds a function, a type or raw bytes")
    return nested
