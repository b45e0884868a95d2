"""Deserialize archive members safely: ``torch.save``, joblib and plain pickles."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Any

from dr_plugins.mldr.errors import ArchiveError, UnsafePickleError
from dr_plugins.mldr.unpickle import MAX_PICKLE_BYTES, loads

MAX_MEMBER_BYTES = MAX_PICKLE_BYTES + (1 << 20)
"""Maximum size of an archive member in bytes."""

_MAX_ENTRIES = 64
_ZIP, _ZLIB, _PICKLE = b"PK\x03\x04", b"\x78", b"\x80"


def load_member(data: bytes) -> Any:
    """Deserialize a member into plain data.

    Args:
        data: Content of a ``.pth.tar`` or ``.jb`` file, written by ``torch.save`` (a zip file that
            holds a pickle), ``joblib.dump(compress=True)`` (a zlib stream) or ``pickle.dump``.

    Raises:
        UnsafePickleError: It holds tensors or functions, or exceeds a size limit.
        ArchiveError: It is damaged or has another format.

    Example:
        >>> import pickle
        >>> load_member(zlib.compress(pickle.dumps((3, [0.5]))))
        (3, [0.5])
    """
    if data.startswith(_ZIP):
        return loads(_zipped(data))
    if data.startswith(_ZLIB):
        return loads(_inflated(data))
    if data.startswith(_PICKLE):
        return loads(data)
    raise ArchiveError(f"it starts with {data[:8]!r}: neither torch.save nor joblib wrote it")


def _zipped(data: bytes) -> bytes:
    if data.count(b"PK\x01\x02") > _MAX_ENTRIES:  # before zipfile parses them all
        raise UnsafePickleError(f"its zip file has more than {_MAX_ENTRIES} entries")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            return file.read(_pickle_entry(file.infolist()))
    except ArchiveError:
        raise
    except Exception as error:  # zipfile raises many types on damaged files
        raise ArchiveError(f"its zip file is damaged: {error!r}") from None


def _pickle_entry(entries: list[zipfile.ZipInfo]) -> zipfile.ZipInfo:
    if any("/data/" in entry.filename for entry in entries):
        raise UnsafePickleError("it holds tensors, which ml-dr does not write")
    found = [entry for entry in entries if entry.filename.split("/")[1:] == ["data.pkl"]]
    if len(found) != 1:
        raise ArchiveError(f"its zip file has {len(found)} entries data.pkl, expected exactly one")
    (entry,) = found
    # torch.save never compresses, and an uncompressed entry cannot be a zip bomb.
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise UnsafePickleError("its zip file is compressed, which torch.save does not do")
    return entry


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        result = inflater.decompress(data, MAX_PICKLE_BYTES + 1)
    except zlib.error as error:
        raise ArchiveError(f"its zlib stream is damaged: {error}") from None
    if len(result) > MAX_PICKLE_BYTES:
        raise UnsafePickleError(f"it inflates to more than {MAX_PICKLE_BYTES:,} bytes")
    if not inflater.eof:
        raise ArchiveError("its zlib stream is truncated")
    return result
