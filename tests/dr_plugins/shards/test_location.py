from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dr_plugins.errors import FormatError, OutputError
from dr_plugins.shards.address import located
from dr_plugins.shards.location import LocalPath, Location
from dr_plugins.shards.locks import FileLocks
from dr_plugins.shards.reader import ShardSet
from dr_plugins.tools.describe import describe
from dr_plugins.tools.subset import subset
from dr_plugins.tools.verify import verify
from tests.data.make_golden import HERE, make

GOLDEN = HERE / "golden-all"


@dataclass
class InMemory(Location):
    """Files in a dictionary, by address."""

    files: dict[str, bytes]
    address: str = "memory://set"

    @property
    def name(self) -> str:
        return self.address.rsplit("/", 1)[-1]

    def __truediv__(self, name: str) -> InMemory:
        return InMemory(self.files, f"{self.address}/{name}")

    def __str__(self) -> str:
        return self.address

    def _content(self) -> bytes:
        if not self.exists():
            raise FileNotFoundError(2, "nothing there")
        return self.files[self.address]

    def exists(self) -> bool:
        return self.address in self.files

    def names(self) -> list[str]:
        return [a.rsplit("/", 1)[-1] for a in self.files if a.startswith(f"{self}/")]

    def size(self) -> int:
        return len(self._content())

    def read_text(self) -> str:
        return self._content().decode()

    def map(self) -> np.ndarray:
        return np.frombuffer(self._content(), np.uint8)

    def digest(self) -> str:
        return hashlib.sha256(self._content()).hexdigest()

    def write(self, chunks: Iterable[Any]) -> str:
        self.files[self.address] = b"".join(chunks)
        return self.digest()

    def remove(self) -> None:
        self.files.pop(self.address, None)

    @contextlib.contextmanager
    def locks(self) -> Iterator[FileLocks]:
        with tempfile.TemporaryDirectory() as directory:
            yield FileLocks(Path(directory) / "locks")

    def modified(self) -> float:
        return 0.0


@pytest.fixture(scope="module")
def memory() -> InMemory:
    """A golden set, written to memory."""
    place = InMemory({})
    make("golden-all", place)  # type: ignore[arg-type]
    return place


def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="regular"):
        LocalPath(pipe).write([b"bytes"])
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_path_is_local_and_a_location_stays() -> None:
    assert located(str(GOLDEN)) == located(GOLDEN) == LocalPath(GOLDEN)
    memory = InMemory({})
    assert located(memory) is memory


def test_what_is_written_elsewhere_are_the_same_bytes(memory: InMemory) -> None:
    assert sorted(memory.names()) == sorted(file.name for file in GOLDEN.iterdir())
    for file in GOLDEN.glob("*.safetensors"):
        assert (memory / file.name)._content() == file.read_bytes()


def test_reading_needs_nothing_but_the_location(memory: InMemory) -> None:
    shards, local = ShardSet(memory), ShardSet(GOLDEN)  # type: ignore[arg-type]
    for one in (shards, pickle.loads(pickle.dumps(shards))):
        assert list(one.keys) == list(local.keys)
        for number in range(2):
            assert one.records(number).tobytes() == local.records(number).tobytes()
        assert one["n01/b_2.JPEG", 5].tobytes() == local["n01/b_2.JPEG", 5].tobytes()
    report = verify(memory)  # type: ignore[arg-type]
    assert (report.files, report.problems) == (3, [])
    assert "bytes in 3 files" in describe(shards)
    assert "memory://set" in repr(shards)


def test_messages_name_the_file_where_it_is(memory: InMemory) -> None:
    files = dict(memory.files)
    del files["memory://set/shard-00001.safetensors"]
    shards = ShardSet(InMemory(files))  # type: ignore[arg-type]
    with pytest.raises(FormatError, match=r"memory://set/shard-00001\.safetensors: nothing there"):
        shards[2, 0]
    assert "1 of 3 files are missing, such as shard-00001.safetensors" in describe(shards)


def test_a_place_where_nobody_may_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Path.exists` raises there."""
    (tmp_path / "private").touch()
    stat = os.stat

    def denying(path: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(f"{tmp_path}/private/"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", denying)
    with pytest.raises(OutputError, match="private"):
        subset(GOLDEN, tmp_path / "private" / "set", samples=1)
