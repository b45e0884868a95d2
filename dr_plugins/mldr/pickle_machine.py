"""The state of the pickle interpreter, and the few global functions that a pickle may name."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from dr_plugins.mldr.errors import UnsafePickleError

MAX_SCALAR_BYTES = 16
_NUMPY_KINDS = {  # as format characters of struct
    **{"b1": "<?", "i1": "<b", "i2": "<h", "i4": "<i", "i8": "<q"},
    **{"u1": "<B", "u2": "<H", "u4": "<I", "u8": "<Q", "f2": "<e", "f4": "<f", "f8": "<d"},
}


class Machine:
    """Stack, marks and memo while a pickle is read."""

    __slots__ = ("data", "end", "marks", "memo", "memoized", "repeated", "stack")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.memoized = 0
        self.repeated = 0  # characters of reused strings
        self.end = 0

    def pop_mark(self) -> list[Any]:
        """Remove and return what was pushed since the last mark."""
        mark, stack = self.marks.pop(), self.stack
        items = stack[mark:]
        del stack[mark:]
        return items

    def bytes_at(self, at: int, count: int) -> bytes:
        """Return `count` bytes; raise IndexError if the data end before."""
        if at + count > len(self.data):
            raise IndexError(f"expected {count} bytes, {len(self.data) - at} left")
        return self.data[at : at + count]


class Global:
    """A replacement for a global function that a pickle may call."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call


class NumpyKind:
    """Replaces a numpy dtype, because a pickle could corrupt the state of a real one."""

    def __init__(self, *args: Any) -> None:
        if len(args) not in (1, 3) or args[0] not in _NUMPY_KINDS:
            raise ValueError("dtype")
        self.kind = args[0]

    def set_state(self, state: Any) -> None:
        """Accept the state of a plain dtype only."""
        plain = isinstance(state, tuple) and len(state) == 8
        if not plain or state[1] not in ("<", "|", "=") or state[2:5] != (None, None, None):
            raise ValueError("dtype state")


def _numpy_scalar(kind: Any, data: Any) -> Any:
    if not isinstance(kind, NumpyKind) or not isinstance(data, bytes):
        raise TypeError("scalar")
    try:
        (number,) = struct.unpack(_NUMPY_KINDS[kind.kind], data)
    except struct.error:
        raise ValueError("scalar") from None
    return number


def _encode(text: Any, encoding: Any) -> bytes:
    # Protocol 2 has no bytes; Python writes them as text to encode.
    if encoding != "latin1" or not isinstance(text, str) or len(text) > MAX_SCALAR_BYTES:
        raise ValueError("bytes")
    return text.encode("latin1")


_GLOBALS = {
    ("numpy", "dtype"): Global(NumpyKind),
    ("numpy.core.multiarray", "scalar"): Global(_numpy_scalar),
    ("numpy._core.multiarray", "scalar"): Global(_numpy_scalar),
    ("_codecs", "encode"): Global(_encode),
}


def find_global(module: Any, name: Any, at: int) -> Global:
    """Return what replaces a global function.

    Raises:
        UnsafePickleError: It is none of the few that numbers and bytes need.
    """
    found = _GLOBALS.get((module, name)) if type(module) is type(name) is str else None
    if found is None:
        raise UnsafePickleError(f"the pickle asks for {_shown(module)}.{_shown(name)} at byte {at}")
    return found


def _shown(name: Any) -> str:
    text = name if isinstance(name, str) else f"<{type(name).__name__}>"
    return text if text.isascii() and text.isprintable() and len(text) < 80 else repr(text[:80])
