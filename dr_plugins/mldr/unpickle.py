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

import re
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

from dr_plugins.mldr.errors import ArchiveError, UnsafePickleError

MAX_PICKLE_BYTES = 8 << 20
"""Maximum length of a pickle in bytes: an image with about 40,000 reinforcements."""

_MAX_DEPTH = 16
_MAX_TEXT = 4096  # bytes of one string
_MAX_REPEATED_TEXT = 8 << 20  # characters of all reused strings
_MAX_OBJECTS = 1 << 20
_HARMLESS_BYTES = 1 << 20  # a pickle of this length cannot exceed _MAX_OBJECTS
_MAKERS = b"]})t\x85\x86\x87\x94qrhj("  # opcodes that need much more memory than their size
_MAX_SCALAR_BYTES = 16
_MAX_PROTOCOL = 5
_STOP = -1
_INT1, _INT2, _MEMOIZE, _MARK = b"KM\x94("
_FLOATS = re.compile(rb"(?:G.{8}){1,64}", re.DOTALL)
_PLAIN = frozenset({type(None), bool, int, float, str})
_CONTAINERS = frozenset({list, tuple, dict})
_NUMPY_KINDS = {  # as format characters of struct
    **{"b1": "<?", "i1": "<b", "i2": "<h", "i4": "<i", "i8": "<q"},
    **{"u1": "<B", "u2": "<H", "u4": "<I", "u8": "<Q", "f2": "<e", "f4": "<f", "f8": "<d"},
}


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
    machine, at = _Machine(data), 0
    try:
        while at != _STOP:
            at = _OPERATIONS[data[at]](machine, at + 1)
        result = machine.stack.pop()
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise ArchiveError(
            f"the pickle is truncated or damaged near byte {at}: {error!r}"
        ) from None
    if machine.stack or machine.end != len(data):
        raise ArchiveError(f"the pickle ends at byte {machine.end} of {len(data)}: it is damaged")
    _check_depth(result)
    return result


class _Machine:
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


class _Global:
    """A replacement for a global function that a pickle may call."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call


class _NumpyKind:
    """Replaces a numpy dtype, because a pickle could corrupt the state of a real one."""

    def __init__(self, *args: Any) -> None:
        if len(args) not in (1, 3) or args[0] not in _NUMPY_KINDS:
            raise ValueError("dtype")
        self.kind = args[0]

    def set_state(self, state: Any) -> None:
        plain = isinstance(state, tuple) and len(state) == 8
        if not plain or state[1] not in ("<", "|", "=") or state[2:5] != (None, None, None):
            raise ValueError("dtype state")


def _numpy_scalar(kind: Any, data: Any) -> Any:
    if not isinstance(kind, _NumpyKind) or not isinstance(data, bytes):
        raise TypeError("scalar")
    try:
        (number,) = struct.unpack(_NUMPY_KINDS[kind.kind], data)
    except struct.error:
        raise ValueError("scalar") from None
    return number


def _encode(text: Any, encoding: Any) -> bytes:
    # Protocol 2 has no bytes; Python writes them as text to encode.
    if encoding != "latin1" or not isinstance(text, str) or len(text) > _MAX_SCALAR_BYTES:
        raise ValueError("bytes")
    return text.encode("latin1")


_GLOBALS = {
    ("numpy", "dtype"): _Global(_NumpyKind),
    ("numpy.core.multiarray", "scalar"): _Global(_numpy_scalar),
    ("numpy._core.multiarray", "scalar"): _Global(_numpy_scalar),
    ("_codecs", "encode"): _Global(_encode),
}


def _refuse(machine: _Machine, at: int) -> NoReturn:
    code = machine.data[at - 1]
    raise UnsafePickleError(f"the pickle uses opcode 0x{code:02x} at byte {at - 1}, refused")


def _find(module: Any, name: Any, at: int) -> _Global:
    found = _GLOBALS.get((module, name)) if type(module) is type(name) is str else None
    if found is None:
        raise UnsafePickleError(f"the pickle asks for {_shown(module)}.{_shown(name)} at byte {at}")
    return found


def _shown(name: Any) -> str:
    text = name if isinstance(name, str) else f"<{type(name).__name__}>"
    return text if text.isascii() and text.isprintable() and len(text) < 80 else repr(text[:80])


# Each operation takes the machine and the position after its opcode, and returns the position of
# the next opcode.


def _proto(m: _Machine, at: int) -> int:
    if m.data[at] > _MAX_PROTOCOL:
        raise UnsafePickleError(f"the pickle has protocol {m.data[at]}; the limit is 5")
    return at + 1


def _frame(m: _Machine, at: int) -> int:
    m.bytes_at(at, 8)
    return at + 8


def _stop(m: _Machine, at: int) -> int:
    m.end = at
    return _STOP


def _mark(m: _Machine, at: int) -> int:
    m.marks.append(len(m.stack))
    return at


def _none(m: _Machine, at: int) -> int:
    m.stack.append(None)
    return at


def _true(m: _Machine, at: int) -> int:
    m.stack.append(True)
    return at


def _false(m: _Machine, at: int) -> int:
    m.stack.append(False)
    return at


def _float(m: _Machine, at: int) -> int:
    run = _FLOATS.match(m.data, at - 1)
    if run is None:
        raise IndexError("expected a float of 8 bytes")
    start, end = run.span()
    m.stack.extend(_unpack_floats((end - start) // 9)(m.data, start))
    return end


@lru_cache(maxsize=64)
def _unpack_floats(count: int) -> Callable[[bytes, int], tuple[float, ...]]:
    return struct.Struct(">" + "xd" * count).unpack_from


def _small_ints(m: _Machine, at: int) -> int:
    data, push = m.data, m.stack.append
    while True:
        if data[at - 1] == _INT1:
            push(data[at])
            at += 2
        elif data[at - 1] == _INT2:
            push(data[at] | data[at + 1] << 8)
            at += 3
        else:
            return at - 1


def _int4(m: _Machine, at: int) -> int:
    m.stack.append(int.from_bytes(m.bytes_at(at, 4), "little", signed=True))
    return at + 4


def _long(m: _Machine, at: int) -> int:
    count = m.data[at]
    if count > 8:
        raise UnsafePickleError(f"the pickle holds an integer of {count} bytes at byte {at}")
    m.stack.append(int.from_bytes(m.bytes_at(at + 1, count), "little", signed=True))
    return at + 1 + count


def _short_text(m: _Machine, at: int) -> int:
    count = m.data[at]
    m.stack.append(m.bytes_at(at + 1, count).decode())
    return at + 1 + count


def _text(m: _Machine, at: int) -> int:
    count = int.from_bytes(m.bytes_at(at, 4), "little")
    if count > _MAX_TEXT:
        raise UnsafePickleError(f"the pickle holds a string of {count:,} bytes at byte {at}")
    m.stack.append(m.bytes_at(at + 4, count).decode())
    return at + 4 + count


def _short_bytes(m: _Machine, at: int) -> int:
    count = m.data[at]
    if count > _MAX_SCALAR_BYTES:
        raise UnsafePickleError(f"the pickle holds {count} bytes of raw data at byte {at}")
    m.stack.append(m.bytes_at(at + 1, count))
    return at + 1 + count


def _empty_list(m: _Machine, at: int) -> int:
    m.stack.append([])
    return _opened(m, at)


def _empty_tuple(m: _Machine, at: int) -> int:
    m.stack.append(())
    return at


def _empty_dict(m: _Machine, at: int) -> int:
    m.stack.append({})
    return _opened(m, at)


def _opened(m: _Machine, at: int) -> int:
    if m.data[at] == _MEMOIZE and m.data[at + 1] == _MARK:
        m.memoized += 1  # lists and dictionaries cannot be reused: do not store them
        m.marks.append(len(m.stack))
        return at + 2
    return at


def _append(m: _Machine, at: int) -> int:
    item = m.stack.pop()
    _top(m, list, at).append(item)
    return at


def _appends(m: _Machine, at: int) -> int:
    items = m.pop_mark()
    _top(m, list, at).extend(items)
    return at


def _set_item(m: _Machine, at: int) -> int:
    value, key = m.stack.pop(), m.stack.pop()
    _set(_top(m, dict, at), [key, value], at)
    return at


def _set_items(m: _Machine, at: int) -> int:
    items = m.pop_mark()
    _set(_top(m, dict, at), items, at)
    return at


def _top(m: _Machine, kind: type, at: int) -> Any:
    if type(m.stack[-1]) is not kind:
        raise UnsafePickleError(
            f"the pickle appends to something other than a {kind.__name__}, byte {at}"
        )
    return m.stack[-1]


def _set(target: dict[str, Any], items: list[Any], at: int) -> None:
    for key, value in zip(items[::2], items[1::2], strict=False):
        if type(key) is not str:
            raise UnsafePickleError(f"the pickle has a key that is not a string, near byte {at}")
        target[key] = value


def _tuple(m: _Machine, at: int) -> int:
    m.stack.append(tuple(m.pop_mark()))
    return _memoize(m, at + 1) if m.data[at] == _MEMOIZE else at


def _tuple1(m: _Machine, at: int) -> int:
    m.stack.append((m.stack.pop(),))
    return at


def _tuple2(m: _Machine, at: int) -> int:
    second = m.stack.pop()
    m.stack.append((m.stack.pop(), second))
    return _memoize(m, at + 1) if m.data[at] == _MEMOIZE else at


def _tuple3(m: _Machine, at: int) -> int:
    third, second = m.stack.pop(), m.stack.pop()
    m.stack.append((m.stack.pop(), second, third))
    return at


def _memoize(m: _Machine, at: int) -> int:
    m.memo[m.memoized] = m.stack[-1]
    m.memoized += 1
    return at


def _put1(m: _Machine, at: int) -> int:
    m.memo[m.data[at]] = m.stack[-1]
    m.memoized += 1
    return at + 1


def _put4(m: _Machine, at: int) -> int:
    m.memo[int.from_bytes(m.bytes_at(at, 4), "little")] = m.stack[-1]
    m.memoized += 1
    return at + 4


def _get1(m: _Machine, at: int) -> int:
    m.stack.append(_lookup(m, m.data[at], at))
    return at + 1


def _get4(m: _Machine, at: int) -> int:
    m.stack.append(_lookup(m, int.from_bytes(m.bytes_at(at, 4), "little"), at))
    return at + 4


def _lookup(m: _Machine, slot: int, at: int) -> Any:
    value = m.memo[slot] if slot in m.memo or slot >= m.memoized else []
    if type(value) is str:
        m.repeated += len(value)
        if m.repeated > _MAX_REPEATED_TEXT:
            raise UnsafePickleError(f"the pickle repeats too much text, at byte {at}")
        return value
    if isinstance(value, list | tuple | dict) and not _is_box(value):
        raise UnsafePickleError(f"the pickle reuses a container at byte {at}")
    return value


def _is_box(value: Any) -> bool:
    return type(value) is tuple and len(value) <= 4 and {int}.issuperset(map(type, value))


def _global(m: _Machine, at: int) -> int:
    first = m.data.index(b"\n", at)
    second = m.data.index(b"\n", first + 1)
    names = m.data[at:first].decode(), m.data[first + 1 : second].decode()
    m.stack.append(_find(*names, at))
    return second + 1


def _stack_global(m: _Machine, at: int) -> int:
    name, module = m.stack.pop(), m.stack.pop()
    m.stack.append(_find(module, name, at))
    return at


def _reduce(m: _Machine, at: int) -> int:
    arguments, function = m.stack.pop(), m.stack.pop()
    if type(function) is not _Global or type(arguments) is not tuple:
        raise UnsafePickleError(f"the pickle calls something that is not a function at byte {at}")
    try:
        m.stack.append(function.call(*arguments))
    except (TypeError, ValueError) as error:
        raise UnsafePickleError(
            f"the pickle builds a numpy {error} that is not a plain number at byte {at}"
        ) from None
    return at


def _build(m: _Machine, at: int) -> int:
    state, target = m.stack.pop(), m.stack[-1]
    if type(target) is not _NumpyKind:
        raise UnsafePickleError(f"the pickle sets the state of an object at byte {at}")
    try:
        target.set_state(state)
    except ValueError:
        raise UnsafePickleError(f"the pickle builds an unusual numpy type at byte {at}") from None
    return at


_OPERATIONS: list[Callable[[_Machine, int], int]] = [_refuse] * 256
for _opcode, _operation in {
    b"\x80": _proto,
    b"\x95": _frame,
    b".": _stop,
    b"(": _mark,
    b"N": _none,
    b"\x88": _true,
    b"\x89": _false,
    b"G": _float,
    b"K": _small_ints,
    b"M": _small_ints,
    b"J": _int4,
    b"\x8a": _long,
    b"\x8c": _short_text,
    b"X": _text,
    b"C": _short_bytes,
    b"]": _empty_list,
    b")": _empty_tuple,
    b"}": _empty_dict,
    b"a": _append,
    b"e": _appends,
    b"s": _set_item,
    b"u": _set_items,
    b"t": _tuple,
    b"\x85": _tuple1,
    b"\x86": _tuple2,
    b"\x87": _tuple3,
    b"\x94": _memoize,
    b"q": _put1,
    b"r": _put4,
    b"h": _get1,
    b"j": _get4,
    b"c": _global,
    b"\x93": _stack_global,
    b"R": _reduce,
    b"b": _build,
}.items():
    _OPERATIONS[_opcode[0]] = _operation


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
