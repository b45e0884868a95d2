"""Safetensors files: written atomically, read through a memory map.

The container is standard (8-byte little-endian header length, JSON header, data); any safetensors
library reads these files. We write it ourselves because the bytes must not depend on a library's
hashing order and must be durable before a shard counts as finished. We map it because a reader of
10,000 shards must neither copy them nor keep their files open.
"""

from __future__ import annotations

import errno
import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from dr_plugins.errors import FormatError
from dr_plugins.shards.address import Place, located

_MAX_HEADER = 1 << 16  # ours have less than 1,000 bytes
_TO_NAME = {"|u1": "U8", "<i4": "I32", "<i8": "I64"}
_TO_DTYPE = {name: np.dtype(code) for code, name in _TO_NAME.items()}


def write_tensors(
    file: Place, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> str:
    """Write a safetensors file atomically.

    Args:
        file: Where the finished file appears.
        tensors: uint8, int32 or int64 arrays; stored in the order given, without holes.
        metadata: Text entries of the header.

    Returns:
        SHA-256 of the file, hexadecimal.

    Raises:
        OutputError: The file cannot be written; nothing is left of it.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": _TO_NAME[array.dtype.str],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    data = (np.ascontiguousarray(a).data.cast("B") for a in tensors.values() if a.size)
    return located(file).write(itertools.chain([len(text).to_bytes(8, "little"), text], data))


def file_digest(file: Place) -> str:
    """Return the SHA-256 of a file, hexadecimal.

    Raises:
        FormatError: The file is missing or unreadable.
    """
    try:
        return located(file).digest()
    except OSError as error:
        raise unreadable(file, error) from error


def map_tensors(
    file: Place, sha256: str | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Map a safetensors file into memory, copying nothing.

    Args:
        file: A file written by `write_tensors`.
        sha256: Its checksum, with which a remote file is compared when it arrives; None if the file
            is local.

    Returns:
        Read-only arrays, which keep the map alive, and the header's metadata.

    Raises:
        FormatError: The file is missing, truncated, or its header is damaged.
    """
    try:
        place = located(file)
        buffer = (place if sha256 is None else place.local(sha256)).map().data
    except OSError as error:
        raise unreadable(file, error) from error
    try:
        header, start = _read_header(buffer)
        metadata = header.pop("__metadata__", {})
        arrays = {name: _view(buffer, start, entry) for name, entry in header.items()}
        end = start + max((e["data_offsets"][1] for e in header.values()), default=0)
        if end != len(buffer):
            raise ValueError(f"the file has {len(buffer)} bytes, its header describes {end}")
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise FormatError(
            f"{file} is truncated or its header is damaged ({error}). "
            f"Copy the file again, or delete it and generate it again."
        ) from error
    return arrays, metadata


def _read_header(buffer: memoryview) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(buffer[:8], "little")
    if len(buffer) < 8 or not 2 <= length <= min(len(buffer) - 8, _MAX_HEADER):
        raise ValueError(f"a header of {length} bytes in a file of {len(buffer)}")
    header = json.loads(buffer[8 : 8 + length].tobytes().decode())
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    return header, 8 + length


def _view(buffer: memoryview, start: int, entry: dict[str, Any]) -> np.ndarray:
    dtype = _TO_DTYPE[entry["dtype"]]
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    if any(type(n) is not int for n in (*shape, begin, end)):
        raise TypeError(f"tensor of shape {shape} at bytes {begin} to {end}")
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if not 0 <= begin <= end <= len(buffer) - start or count * dtype.itemsize != end - begin:
        raise ValueError(f"tensor of shape {shape} at bytes {begin} to {end}")
    if min(shape, default=1) < 0:
        raise ValueError(f"tensor of shape {shape}")
    return np.frombuffer(buffer, dtype, count, start + begin).reshape(shape)


def unreadable(file: Place, error: OSError) -> FormatError:
    """Return the error for a file that cannot be read."""
    if error.errno not in (None, errno.ENOENT):
        return FormatError(
            f"cannot read {file}: {error.strerror}. That is what the system says; what is in the "
            f"file was not looked at."
        )
    return FormatError(
        f"cannot read {file}: {error.strerror or error}. The shard set is incomplete; copy the "
        f"file again, or run `dr-plugins reinforce` with the same settings, which makes missing "
        f"files again."
    )
