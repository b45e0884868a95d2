from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dr_plugins.errors import FormatError
from dr_plugins.shards import mapping
from dr_plugins.shards.container import file_digest, map_tensors
from dr_plugins.shards.manifest import Manifest
from dr_plugins.shards.mapping import map_file


def described(path: Path) -> list[str]:
    """Protection and kind of this process's maps of a file, such as ``r--s``."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line.split()[1] for line in lines if line.endswith(str(path))]


def test_a_map_is_read_only_and_shared_and_ends_with_its_last_array(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 100)
    before = len(os.listdir("/proc/self/fd"))
    part = memoryview(map_file(path)[256:])[1:3]
    assert described(path) == ["r--s"]
    assert len(os.listdir("/proc/self/fd")) == before
    assert bytes(part) == b"\1\2"
    with pytest.raises(TypeError, match="read-only"):
        part[0] = 0
    del part
    assert described(path) == []


def test_a_file_may_be_larger_than_memory(tmp_path: Path) -> None:
    path, size = tmp_path / "file", 1 << 40
    path.touch()
    try:
        os.truncate(path, size)
    except OSError:
        pytest.skip("this file system has no files of this size")
    mapped = map_file(path)
    assert (len(mapped), mapped[-1]) == (size, 0)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff")
    path.write_bytes(b"content")
    assert map_file(path).tobytes() == b"content"


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EACCES])
def test_the_systems_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: object) -> int:
        ctypes.set_errno(code)
        return mapping._FAILED

    path = tmp_path / "file"
    path.write_bytes(b"content")
    monkeypatch.setattr(mapping, "_map", fail)
    with pytest.raises(FormatError, match=rf"{path}.*{os.strerror(code)}") as error:
        map_tensors(path)
    assert "incomplete" not in str(error.value)


def make_directory(path: Path) -> None:
    path.mkdir()


def make_endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [make_directory, os.mkfifo, make_endless])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    for name in ("manifest.json", "shard"):
        make(tmp_path / name)
    for read in (map_tensors, file_digest, lambda path: Manifest.load(path.parent)):
        with pytest.raises(FormatError, match=str(tmp_path)):
            read(tmp_path / "shard")


def test_whole_pages_and_single_bytes(tmp_path: Path) -> None:
    for size in (1, mmap.PAGESIZE - 1, mmap.PAGESIZE, mmap.PAGESIZE + 1):
        data = np.random.default_rng(size).bytes(size)
        (tmp_path / "file").write_bytes(data)
        assert map_file(tmp_path / "file").tobytes() == data
