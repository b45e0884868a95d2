"""Read checkpoint files that may be damaged or malicious: no code runs, and memory is bounded."""

from __future__ import annotations

import io
import pickle
import pickletools
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import serialization

from dr_plugins.errors import CheckpointError

METADATA_KEY = "dr_plugins"
"""Key of the metadata in converted ``torch.save`` files."""

_ZIP = b"PK\x03\x04"
_LEGACY_PICKLES = 5  # before the tensors of a file older than PyTorch 1.6
_MOST_PICKLE = 64 << 20
_LONG, _MOST_REPEATED = 1 << 10, 64 << 20
_ARGUMENTS = "argparse.Namespace"  # timm's train.py stores the model's name in it
_UNUSED_CLASSES = (
    "mmengine.logging.history_buffer.HistoryBuffer",  # log of MMEngine's Runner
    "builtins.getattr",  # methods of that buffer are pickled as getattr
    "numpy.core.multiarray.scalar",  # a metric; the second name is that of numpy 2
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",  # Python 3.13's name
    "pathlib._local.WindowsPath",
)


class FileContent(NamedTuple):
    """Content of a checkpoint file.

    Attributes:
        content: Tensors by name, or the object passed to ``torch.save``.
        metadata: Metadata of the file.
    """

    content: Any
    metadata: dict[str, str]


def read_file(path: Path) -> FileContent:
    """Read a safetensors or ``torch.save`` file; the content determines which.

    Of a ``torch.save`` file, tensors and plain containers are read (``weights_only=True``).
    Arguments, numpy numbers and paths, which training scripts add, become inert objects; any other
    class is an error. The checksums in the zip file are verified.

    Raises:
        CheckpointError: The file is missing, damaged, compressed or unsafe.
    """
    if _is_safetensors(path):
        with _typed(path, "safetensors"):
            return FileContent(safetensors.torch.load_file(path), _safetensors_metadata(path))
    with _typed(path, "PyTorch"):
        return _read_torch(path)


def read_file_metadata(path: Path) -> dict[str, str]:
    """Read a file's metadata; does not read the tensors of a safetensors file.

    Raises:
        CheckpointError: See `read_file`.
    """
    if not _is_safetensors(path):
        return read_file(path).metadata
    with _typed(path, "safetensors"):
        return _safetensors_metadata(path)


def _is_safetensors(path: Path) -> bool:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(
                f"{path} is not a regular file; use the path of the checkpoint file"
            )
        with open(path, "rb") as file:
            head = file.read(9)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot read {path}: {reason}") from error
    if head.endswith(b"{") and int.from_bytes(head[:8], "little") + 8 <= status.st_size:
        return True
    if head.startswith((_ZIP, b"\x80")):
        return False
    raise CheckpointError(
        f"{path} is neither a safetensors nor a torch.save file; expected a checkpoint such as "
        f"ml-dr's best.pt" + _advice(path, head)
    )


@contextmanager
def _typed(path: Path, kind: str) -> Iterator[None]:
    """Convert the libraries' errors on damaged files, which have many types."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path} is a damaged {kind} file: {str(error)[:200] or type(error).__name__}. Compare "
            f"its size with that of the original ({path.stat().st_size:,} bytes here)"
        ) from error


def _safetensors_metadata(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata() or {}


def _advice(path: Path, head: bytes) -> str:
    if path.name.endswith(".index.json"):
        return ". This is the index of a sharded checkpoint; save its parts as one file first"
    if head.lstrip().startswith(b"<"):
        return " (this is a web page, perhaps from a failed download)"
    return ""


def _read_torch(path: Path) -> FileContent:
    with open(path, "rb") as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
        file.seek(0)
        if is_zip and not zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{path} is truncated: {path.stat().st_size:,} bytes of a zip file whose end is "
                f"missing. Copy or download it again"
            )
        if is_zip:
            _check_zip(path)
        else:
            for _ in range(_LEGACY_PICKLES):
                _check_pickle(file, path)
    content = _load(path)
    metadata = content.get(METADATA_KEY) if isinstance(content, Mapping) else None
    if not isinstance(metadata, Mapping):
        return FileContent(content, {})
    return FileContent(
        content,
        {key: value for key, value in metadata.items() if type(key) is type(value) is str},
    )


def _check_zip(path: Path) -> None:
    """Verify checksums and refuse compression, which PyTorch does not do."""
    with zipfile.ZipFile(path) as file:
        entries = file.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise CheckpointError(f"{path} is a TorchScript program; save its state dict instead")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise CheckpointError(
                    f"{path}: {entry.filename} is compressed, which torch.save never does; save "
                    f"the state dict again"
                )
        names = {entry.filename for entry in entries}
        total = sum(entry.file_size for entry in entries)
        if len(names) != len(entries) or total > path.stat().st_size:
            raise CheckpointError(f"{path}: entries of the zip file overlap; it is damaged")
        if not any(entry.CRC for entry in entries):
            for entry in entries:  # written after torch.serialization.set_crc32_options(False)
                del entry.CRC
        damaged = file.testzip()
        if damaged is not None:
            raise CheckpointError(
                f"{path}: {damaged} does not match its checksum: the file is damaged. Copy "
                f"or download it again"
            )
        for entry in entries:
            if entry.filename.endswith("data.pkl"):
                if entry.file_size > _MOST_PICKLE:
                    raise CheckpointError(
                        f"{path}: {entry.filename} has {entry.file_size:,} bytes, more than "
                        f"{_MOST_PICKLE:,}; save only the state dict"
                    )
                _check_pickle(io.BytesIO(file.read(entry)), path)


def _check_pickle(stream: BinaryIO, path: Path) -> None:
    """Raise for pickles that make PyTorch allocate far more memory than the file's size."""
    length, repeated = 0, 0
    long: dict[Any, int] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        if isinstance(argument, str | bytes):
            length = len(argument)
            if argument in ("builtins bytearray", "__builtin__ bytearray"):
                raise CheckpointError(
                    f"{path} contains a bytearray, which no checkpoint needs; save only the state "
                    f"dict"
                )
        elif opcode.name in ("BINPUT", "LONG_BINPUT") and length > _LONG:
            long[argument] = length
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            repeated += long.get(argument, 0)
            if repeated > _MOST_REPEATED:
                raise CheckpointError(
                    f"{path} repeats long strings, in total more than {_MOST_REPEATED:,} "
                    f"bytes; save only the state dict"
                )


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        pass
    try:
        with _stand_ins():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition(" was not an allowed global")[0].rpartition(": ")[2]
        raise CheckpointError(
            f"{path} holds more than tensors and plain data; loading that could execute code: "
            f"{reason}. If you trust the file, load it where it was made and save only its state "
            f"dict"
        ) from error


class _Inert:
    """Replaces an object that conversion does not need."""

    def __new__(cls, *args: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Arguments(_Inert):
    """Replaces a script's arguments, and keeps them as data."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def _stand_in(name: str, base: type) -> type:
    module, _, qualified = name.rpartition(".")
    return type(qualified, (base,), {"__module__": module})


_STAND_INS: list[Any] = [
    _stand_in(_ARGUMENTS, _Arguments),
    *(_stand_in(name, _Inert) for name in _UNUSED_CLASSES),
]


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Let PyTorch's restricted unpickler create inert objects for the listed classes."""
    before = serialization.get_safe_globals()
    serialization.add_safe_globals(_STAND_INS)
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(before)
