from __future__ import annotations

import io
import os
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

from dr_plugins.mldr.errors import ArchiveError, UnsafePickleError
from dr_plugins.mldr.serialization import MAX_MEMBER_BYTES, load_member

CONTENT = (3, [{"params": [(1, 2, 3, 4), True], "prob": ([0.5, 0.25], [7, 9])}])


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def zipped(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_torch_save(protocol: int) -> None:
    assert load_member(saved(CONTENT, pickle_protocol=protocol)) == CONTENT


@pytest.mark.parametrize("level", [1, 3, 9])
def test_joblib_writes_a_zlib_stream_around_a_pickle(level: int) -> None:
    assert load_member(zlib.compress(pickle.dumps(CONTENT, 4), level)) == CONTENT


def test_joblib_itself(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    joblib.dump(CONTENT, tmp_path / "0.pth.tar", compress=True)
    assert load_member((tmp_path / "0.pth.tar").read_bytes()) == CONTENT


def test_tensors_are_refused() -> None:
    with pytest.raises(UnsafePickleError, match="tensors"):
        load_member(saved({"weights": torch.ones(3)}))


class _Attack:
    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("wrap", [saved, lambda x: zlib.compress(pickle.dumps(x)), pickle.dumps])
def test_no_wrapping_lets_a_call_through(wrap: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafePickleError, match=r"posix\.system"):
        load_member(wrap((0, [{"params": _Attack(), "prob": None}])))
    assert not list(tmp_path.iterdir())


def test_zip_bombs_are_refused() -> None:
    bomb = {"0/data.pkl": b"\x80\x04" + bytes(50_000_000)}
    with pytest.raises(UnsafePickleError, match="compressed"):
        load_member(zipped(bomb, zipfile.ZIP_DEFLATED))
    many = {f"0/{i}": b"" for i in range(1000)}
    with pytest.raises(UnsafePickleError, match="entries"):
        load_member(zipped(many))
    with pytest.raises(UnsafePickleError, match="inflates to more"):
        load_member(zlib.compress(bytes(50_000_000)))


def test_damage_is_typed() -> None:
    whole = saved(CONTENT, pickle_protocol=4)
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        try:
            load_member(bytes(damaged))
        except ArchiveError:
            continue
    for length in (0, 3, 4, 100, len(whole) - 1):
        with pytest.raises(ArchiveError):
            load_member(whole[:length])
    with pytest.raises(ArchiveError, match="truncated"):
        load_member(zlib.compress(pickle.dumps(CONTENT, 4))[:-4])
    with pytest.raises(ArchiveError, match=r"entries data\.pkl"):
        load_member(zipped({"a/data.pkl": b"", "b/data.pkl": b""}))


def test_the_limit_has_room_for_the_largest_published_set() -> None:
    # Flowers-102: 8000 reinforcements; here in the longer of the two layouts, with mixing.
    pair = ((0, 0, 300, 300), (0, 0, 300, 300))
    names = ("random_resized_crop", "random_erase", "rand_augment")
    one = {"params": dict.fromkeys(names, pair), "prob": ([0.1] * 10, list(range(300, 310)))}
    assert 8000 * len(pickle.dumps(one, 4)) < MAX_MEMBER_BYTES
