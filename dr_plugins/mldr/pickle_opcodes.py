"""The opcodes of plain data: what each does to the interpreter's state."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

from dr_plugins.mldr.errors import UnsafePickleError
from dr_plugins.mldr.pickle_machine import MAX_SCALAR_BYTES, Global, Machine, NumpyKind, find_global

_MAX_TEXT = 4096  # bytes of one string
_MAX_REPEATED_TEXT = 8 << 20  # characters of all reused strings
_MAX_PROTOCOL = 5
STOP = -1
_INT1, _INT2, _MEMOIZE, _MARK = b"KM\x94("
_FLOATS = re.compile(rb"(?:G.{8}){1,64}", re.DOTALL)


def _refuse(machine: Machine, at: int) -> NoReturn:
    code = machine.data[at - 1]
    raise UnsafePickleError(f"the pickle uses opcode 0x{code:02x} at byte {at - 1}, refused")


# Each operation takes the machine and the position after its opcode, and returns the position of
# the next opcode.


def _proto(m: Machine, at: int) -> int:
    if m.data[at] > _MAX_PROTOCOL:
        raise UnsafePickleError(f"the pickle has protocol {m.data[at]}; the limit is 5")
    return at + 1


def _frame(m: Machine, at: int) -> int:
    m.bytes_at(at, 8)
    return at + 8


def _stop(m: Machine, at: int) -> int:
    m.end = at
    return STOP


def _mark(m: Machine, at: int) -> int:
    m.marks.append(len(m.stack))
    return at


def _none(m: Machine, at: int) -> int:
    m.stack.append(None)
    return at


def _true(m: Machine, at: int) -> int:
    m.stack.append(True)
    return at


def _false(m: Machine, at: int) -> int:
    m.stack.append(False)
    return at


def _float(m: Machine, at: int) -> int:
    run = _FLOATS.match(m.data, at - 1)
    if run is None:
        raise IndexError("expected a float of 8 bytes")
    start, end = run.span()
    m.stack.extend(_unpack_floats((end - start) // 9)(m.data, start))
    return end


@lru_cache(maxsize=64)
def _unpack_floats(count: int) -> Callable[[bytes, int], tuple[float, ...]]:
    return struct.Struct(">" + "xd" * count).unpack_from


def _small_ints(m: Machine, at: int) -> int:
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


def _int4(m: Machine, at: int) -> int:
    m.stack.append(int.from_bytes(m.bytes_at(at, 4), "little", signed=True))
    return at + 4


def _long(m: Machine, at: int) -> int:
    count = m.data[at]
    if count > 8:
        raise UnsafePickleError(f"the pickle holds an integer of {count} bytes at byte {at}")
    m.stack.append(int.from_bytes(m.bytes_at(at + 1, count), "little", signed=True))
    return at + 1 + count


def _short_text(m: Machine, at: int) -> int:
    count = m.data[at]
    m.stack.append(m.bytes_at(at + 1, count).decode())
    return at + 1 + count


def _text(m: Machine, at: int) -> int:
    count = int.from_bytes(m.bytes_at(at, 4), "little")
    if count > _MAX_TEXT:
        raise UnsafePickleError(f"the pickle holds a string of {count:,} bytes at byte {at}")
    m.stack.append(m.bytes_at(at + 4, count).decode())
    return at + 4 + count


def _short_bytes(m: Machine, at: int) -> int:
    count = m.data[at]
    if count > MAX_SCALAR_BYTES:
        raise UnsafePickleError(f"the pickle holds {count} bytes of raw data at byte {at}")
    m.stack.append(m.bytes_at(at + 1, count))
    return at + 1 + count


def _empty_list(m: Machine, at: int) -> int:
    m.stack.append([])
    return _opened(m, at)


def _empty_tuple(m: Machine, at: int) -> int:
    m.stack.append(())
    return at


def _empty_dict(m: Machine, at: int) -> int:
    m.stack.append({})
    return _opened(m, at)


def _opened(m: Machine, at: int) -> int:
    if m.data[at] == _MEMOIZE and m.data[at + 1] == _MARK:
        m.memoized += 1  # lists and dictionaries cannot be reused: do not store them
        m.marks.append(len(m.stack))
        return at + 2
    return at


def _append(m: Machine, at: int) -> int:
    item = m.stack.pop()
    _top(m, list, at).append(item)
    return at


def _appends(m: Machine, at: int) -> int:
    items = m.pop_mark()
    _top(m, list, at).extend(items)
    return at


def _set_item(m: Machine, at: int) -> int:
    value, key = m.stack.pop(), m.stack.pop()
    _set(_top(m, dict, at), [key, value], at)
    return at


def _set_items(m: Machine, at: int) -> int:
    items = m.pop_mark()
    _set(_top(m, dict, at), items, at)
    return at


def _top(m: Machine, kind: type, at: int) -> Any:
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


def _tuple(m: Machine, at: int) -> int:
    m.stack.append(tuple(m.pop_mark()))
    return _memoize(m, at + 1) if m.data[at] == _MEMOIZE else at


def _tuple1(m: Machine, at: int) -> int:
    m.stack.append((m.stack.pop(),))
    return at


def _tuple2(m: Machine, at: int) -> int:
    second = m.stack.pop()
    m.stack.append((m.stack.pop(), second))
    return _memoize(m, at + 1) if m.data[at] == _MEMOIZE else at


def _tuple3(m: Machine, at: int) -> int:
    third, second = m.stack.pop(), m.stack.pop()
    m.stack.append((m.stack.pop(), second, third))
    return at


def _memoize(m: Machine, at: int) -> int:
    m.memo[m.memoized] = m.stack[-1]
    m.memoized += 1
    return at


def _put1(m: Machine, at: int) -> int:
    m.memo[m.data[at]] = m.stack[-1]
    m.memoized += 1
    return at + 1


def _put4(m: Machine, at: int) -> int:
    m.memo[int.from_bytes(m.bytes_at(at, 4), "little")] = m.stack[-1]
    m.memoized += 1
    return at + 4


def _get1(m: Machine, at: int) -> int:
    m.stack.append(_lookup(m, m.data[at], at))
    return at + 1


def _get4(m: Machine, at: int) -> int:
    m.stack.append(_lookup(m, int.from_bytes(m.bytes_at(at, 4), "little"), at))
    return at + 4


def _lookup(m: Machine, slot: int, at: int) -> Any:
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


def _global(m: Machine, at: int) -> int:
    first = m.data.index(b"\n", at)
    second = m.data.index(b"\n", first + 1)
    names = m.data[at:first].decode(), m.data[first + 1 : second].decode()
    m.stack.append(find_global(*names, at))
    return second + 1


def _stack_global(m: Machine, at: int) -> int:
    name, module = m.stack.pop(), m.stack.pop()
    m.stack.append(find_global(module, name, at))
    return at


def _reduce(m: Machine, at: int) -> int:
    arguments, function = m.stack.pop(), m.stack.pop()
    if type(function) is not Global or type(arguments) is not tuple:
        raise UnsafePickleError(f"the pickle calls something that is not a function at byte {at}")
    try:
        m.stack.append(function.call(*arguments))
    except (TypeError, ValueError) as error:
        raise UnsafePickleError(
            f"the pickle builds a numpy {error} that is not a plain number at byte {at}"
        ) from None
    return at


def _build(m: Machine, at: int) -> int:
    state, target = m.stack.pop(), m.stack[-1]
    if type(target) is not NumpyKind:
        raise UnsafePickleError(f"the pickle sets the state of an object at byte {at}")
    try:
        target.set_state(state)
    except ValueError:
        raise UnsafePickleError(f"the pickle builds an unusual numpy type at byte {at}") from None
    return at


OPERATIONS: list[Callable[[Machine, int], int]] = [_refuse] * 256
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
    OPERATIONS[_opcode[0]] = _operation
