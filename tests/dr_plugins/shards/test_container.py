from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from dr_plugins.errors import FormatError, OutputError
from dr_plugins.shards.address import located
from dr_plugins.shards.container import file_digest, map_tensors, write_tensors

TENSORS = {
    "labels": np.array([3, -1], np.int32),
    "ends": np.array([1, 2**40], np.int64),
    "records": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "nothing": np.zeros((0, 7), np.uint8),
}


def test_round_trip_and_what_other_readers_see(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    digest = write_tensors(path, TENSORS, {"format": "dr-plugins", "wörd": "ü"})
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest() == file_digest(path)
    mapped, metadata = map_tensors(path)
    assert metadata == {"format": "dr-plugins", "wörd": "ü"}
    theirs = load_file(path)
    assert list(mapped) == list(TENSORS)
    for name, array in TENSORS.items():
        assert mapped[name].dtype == array.dtype
        assert not mapped[name].flags.writeable
        np.testing.assert_array_equal(mapped[name], array)
        np.testing.assert_array_equal(theirs[name], array)


def test_bytes_are_pinned(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": np.array([1, 2], np.uint8)}, {"k": "v"})
    header = b'{"__metadata__":{"k":"v"},"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
    header += b" " * (-len(header) % 8)
    assert path.read_bytes() == len(header).to_bytes(8, "little") + header + b"\1\2"


def test_no_file_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS, {})
    before = len(os.listdir("/proc/self/fd"))
    kept = [map_tensors(path) for _ in range(50)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert all(tensors["labels"][0] == 3 for tensors, _ in kept)


@settings(max_examples=150)
@given(data=st.data())
def test_damage_is_an_error_or_leaves_the_header_intact(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damage") / "a.safetensors"
    write_tensors(path, TENSORS, {"format": "dr-plugins"})
    whole = bytearray(path.read_bytes())
    header_end = 8 + int.from_bytes(whole[:8], "little")
    if data.draw(st.booleans(), label="truncate"):
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(FormatError, match=r"a\.safetensors"):
            map_tensors(path)
        return
    position = data.draw(st.integers(0, header_end - 1))
    whole[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole)
    try:
        tensors, metadata = map_tensors(path)
    except FormatError:
        return
    # What still parses must differ in names, shapes or metadata, which the reader compares.
    found = {name: (t.dtype, t.shape) for name, t in tensors.items()}
    expected = {name: (t.dtype, t.shape) for name, t in TENSORS.items()}
    spaces = whole[:header_end].rstrip(b" ") == path.read_bytes()[:header_end].rstrip(b" ")
    assert found != expected or metadata != {"format": "dr-plugins"} or spaces


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"gone\.safetensors"):
        map_tensors(tmp_path / "gone.safetensors")
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(FormatError, match=r"empty\.safetensors"):
        map_tensors(tmp_path / "empty.safetensors")


def test_a_failed_write_leaves_the_old_file_and_no_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    located(path).write([b"old"])

    def failing() -> object:
        yield b"new"
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left on device"):
        located(path).write(failing())  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="this system has no /dev/full")
def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.tmp").symlink_to("/dev/full")  # every write to this device fails with ENOSPC
    with pytest.raises(OutputError, match=r"/a: No space left on device"):
        located(tmp_path / "a").write([b"x" * 100_000])
    assert list(tmp_path.iterdir()) == []
