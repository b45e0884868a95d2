"""Memory maps that do not keep their files open.

Before 3.13, Python's `mmap` keeps a file descriptor for each map, and a set may have more shards
than a process may open files. PyTorch's maps are private and writable, so they count as memory
committed by each worker. Maps made here are shared by all processes through the page cache.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dr_plugins.utils.files import regular_only

_libc = ctypes.CDLL(None, use_errno=True)
_map, _unmap = _libc.mmap, _libc.munmap
_map.restype = ctypes.c_void_p
_map.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_unmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value


class _Map:
    """Owns a map; arrays that use it keep it alive."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._address, self._size = None, size
        address = _map(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address == _FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._address = address

    @property
    def __array_interface__(self) -> dict[str, object]:
        where = (self._address, True)  # read-only
        return {"version": 3, "data": where, "shape": (self._size,), "typestr": "|u1"}

    def __del__(self, unmap: Callable[..., int] = _unmap) -> None:  # also while Python ends
        if self._address is not None:
            unmap(self._address, self._size)


def map_file(path: Path) -> np.ndarray:
    """Map a file into memory.

    Returns:
        uint8 ``[bytes]``, read-only; the file is unmapped with the last array that uses it.

    Raises:
        OSError: The file cannot be opened or mapped, is empty, or is not a regular file.
    """
    with open(path, "rb", buffering=0, opener=regular_only) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise OSError("the file is empty")
        return np.asarray(_Map(file.fileno(), size))
