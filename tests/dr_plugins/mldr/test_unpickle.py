from __future__ import annotations

import contextlib
import os
import pickle
import struct
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dr_plugins.mldr.errors import ArchiveError, UnsafePickleError
from dr_plugins.mldr.unpickle import MAX_PICKLE_BYTES, loads

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(tree=trees, protocol=st.sampled_from([2, 3, 4, 5]))
def test_plain_data_comes_back_as_pickle_reads_it(tree: Any, protocol: int) -> None:
    data = pickle.dumps(tree, protocol)
    assert loads(data) == pickle.loads(data)


def test_long_runs_and_frames() -> None:
    tree = (7, [{"params": [i, 2.5, None, True], "prob": [0.1] * 300} for i in range(1000)])
    assert loads(pickle.dumps(tree, 4)) == tree
    assert loads(pickle._dumps(tree, 4)) == tree  # type: ignore[attr-defined]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "value", [np.int64(-7), np.float64(0.3), np.float32(0.5), np.uint16(65535), np.bool_(True)]
)
def test_numpy_scalars_become_python_numbers(value: Any, protocol: int) -> None:
    found = loads(pickle.dumps([value, value], protocol))
    assert found == [value.item()] * 2
    assert type(found[0]) is type(value.item())


def test_old_numpy_module_name() -> None:
    data = pickle.dumps(np.int64(5), 4).replace(
        b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray"
    )
    assert loads(data) == 5


@given(data=st.binary(max_size=200))
def test_any_bytes_end_in_a_value_or_a_typed_error(data: bytes) -> None:
    with contextlib.suppress(ArchiveError):
        loads(b"\x80\x04" + data)


@given(tree=trees, data=st.data())
def test_damaged_pickles_end_in_a_value_or_a_typed_error(tree: Any, data: Any) -> None:
    pickled = bytearray(pickle.dumps(tree, data.draw(st.sampled_from([2, 4]))))
    position = data.draw(st.integers(0, len(pickled) - 1))
    pickled[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(ArchiveError):
        loads(bytes(pickled))


def test_truncation_is_named() -> None:
    with pytest.raises(ArchiveError, match="truncated or damaged"):
        loads(pickle.dumps([1.5] * 40, 4)[:-9])
    with pytest.raises(ArchiveError, match="ends at byte"):
        loads(pickle.dumps([1.5], 4) + b"more")


class _Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.call


class _Chain:
    def __reduce__(self) -> Any:
        return getattr, (_Calls(__import__, "builtins"), "eval")


def _object_array() -> bytes:
    return pickle.dumps(np.array([_Calls(os.system, "true")], dtype=object), 4)


HOSTILE = {
    "os.system": pickle.dumps(_Calls(os.system, "touch pwned"), 4),
    "os.system, protocol 2": pickle.dumps(_Calls(os.system, "touch pwned"), 2),
    "os.system, protocol 0": pickle.dumps(_Calls(os.system, "touch pwned"), 0),
    "eval": pickle.dumps(_Calls(eval, "open('pwned', 'w')"), 4),
    "exec in a member": pickle.dumps((0, [{"params": _Calls(exec, "1"), "prob": None}]), 4),
    "getattr chain": pickle.dumps(_Chain(), 4),
    "getattr chain, protocol 2": pickle.dumps(_Chain(), 2),
    "a class": pickle.dumps(OrderedDict(a=1), 4),
    "a bare function": pickle.dumps([len], 4),
    "a bare numpy function": b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93.",
    "numpy object array": _object_array(),
    "numpy array": pickle.dumps(np.arange(4), 4),
    "numpy load": pickle.dumps(_Calls(np.load, "x"), 4),
    "torch storage": pickle.dumps(torch.arange(3).untyped_storage(), 4),
    "torch rebuild": pickle.dumps(torch.ones(2), 4),
    "persistent id": b"\x80\x04\x8c\x07storageQ.",
    "text persistent id": b"Pstorage\n.",
    "extension registry": b"\x80\x02\x82\x01.",
    "instance": b"(i__main__\nX\n.",
    "new object": b"\x80\x04\x8c\x08builtins\x8c\x06objectR)\x81.",
    "object dtype": b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02O8\x89\x88\x87R.",
    "structured dtype": b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93\x8c\x05i4,i4\x89\x88\x87R.",
    "dtype state": b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02i8\x89\x88\x87R"
    b"(K\x03\x8c\x01<]NNK\xffK\xffK?tb.",
    "state of a list": b"\x80\x04]}b.",
    "scalar of wrong length": b"\x80\x04\x8c\x16numpy._core.multiarray\x8c\x06scalar\x93"
    b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02i8\x89\x88\x87RC\x02ab\x86R.",
    "scalar of no dtype": b"\x80\x04\x8c\x16numpy._core.multiarray\x8c\x06scalar\x93"
    b"\x8c\x02i8C\x08abcdefgh\x86R.",
    "encode with another codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00"
    b"zip\x86R.",
    "calling a string": b"\x80\x04\x8c\x01a)R.",
    "long integer": b"\x80\x04\x8b" + struct.pack("<i", 2**30) + b"\x01.",
    "integer of 255 bytes": b"\x80\x04\x8a\xff" + b"\x01" * 255 + b".",
    "raw bytes": pickle.dumps(b"x" * 17, 4),
    "short raw bytes": pickle.dumps([b"x"], 4),
    "out-of-band buffer": b"\x80\x05\x97.",
    "protocol 6": b"\x80\x06N.",
    "set": pickle.dumps({1, 2}, 4),
    "tuple as key": pickle.dumps({(1, 2): 3}, 4),
    "deep tuple as key": b"\x80\x04}N" + b"\x85" * 200_000 + b"Ns.",
    "deep tuple": b"\x80\x04N" + b"\x85" * 200_000 + b".",
    "deep list": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "laughing lists": b"\x80\x04]\x94"
    + b"".join(b"]\x94(h%ch%ce" % (i, i) for i in range(40))
    + b".",
    "laughing tuples": b"\x80\x04N\x85\x94"
    + b"".join(b"h%ch%c\x86\x94" % (i, i) for i in range(9))
    + b".",
    "key of shared tuples": b"\x80\x04}N\x85\x94" + b"h\x00h\x00\x86\x94h\x01h\x01\x86Ks.",
    "list in itself": b"\x80\x04]\x94h\x00a.",
    "long text": pickle.dumps("x" * 5000, 4),
    "repeated text": b"\x80\x04X\x00\x10\x00\x00"
    + b"x" * 4096
    + b"\x94("
    + b"h\x00" * 2500
    + b"t.",
    "many lists": b"\x80\x04(" + b"]" * 2_000_000 + b"t.",
    "many tuples": b"\x80\x04" + b")\x85" * 1_000_000 + b".",
    "many memo slots": b"\x80\x04" + b"N\x94" * 2_000_000 + b".",
    "too long": pickle.dumps([0.0] * (MAX_PICKLE_BYTES // 9), 4),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(name: str, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafePickleError):
        loads(HOSTILE[name])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x80\x04Nr\xff\xff\xff\x7f.",  # memo index of 2**31
        b"\x80\x04X\xff\xff\xff\x7fa.",  # a string of 2 GB announced
        b"\x80\x04\x95" + b"\xff" * 8 + b"N.",  # a frame of 2**64 bytes announced
        b"\x80\x04" + b"(" * 1_000_000 + b".",
        b"\x80\x04" + b"N\x94" * 500_000 + b".",
    ],
)
def test_bombs_cost_no_more_than_their_bytes(bomb: bytes) -> None:
    import tracemalloc

    tracemalloc.start()
    with contextlib.suppress(ArchiveError):
        loads(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000 + 200 * len(bomb)


def test_boxes_may_be_shared() -> None:
    box = (1, 2, 3, 4)
    assert loads(pickle.dumps([box, box], 4)) == [box, box]


def test_the_error_names_what_was_asked_for() -> None:
    with pytest.raises(UnsafePickleError, match=r"posix\.system"):
        loads(HOSTILE["os.system"])
