"""Verifying in several processes, with every record, and after an interruption."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from dr_plugins.cli.main import main
from dr_plugins.errors import FormatError, WorkerError
from dr_plugins.shards.container import file_digest
from dr_plugins.shards.manifest import FileEntry, Manifest
from dr_plugins.shards.reader import ShardSet
from dr_plugins.tools import verify_files
from dr_plugins.tools.verify import verify
from tests.servers import serving

NAMES = ["index.safetensors", *(f"shard-0000{n}.safetensors" for n in range(3))]


@pytest.fixture
def own(tmp_path: Path, shard_sets: Callable[..., Path]) -> Path:
    return shutil.copytree(shard_sets(), tmp_path / "own")


@pytest.fixture
def digests(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The files whose checksum is computed."""
    names: list[str] = []

    def counted(path: object) -> str:
        names.append(Path(str(path)).name)
        return file_digest(path)  # type: ignore[arg-type]

    monkeypatch.setattr(verify_files, "file_digest", counted)
    return names


def flip(file: Path, position: int = -30) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def test_processes_find_what_one_finds(own: Path) -> None:
    assert verify(own, workers=2, records=True) == verify(own)
    flip(own / NAMES[1])
    (own / NAMES[3]).unlink()
    alone, together = verify(own), verify(own, workers=2)
    assert together == alone
    assert [any(name in problem for problem in alone.problems) for name in NAMES] == [
        False, True, False, True,
    ]  # fmt: skip


def test_records_of_a_faulty_writer(own: Path) -> None:
    """Two images have changed places; all files are as they were written."""
    shards = ShardSet(own)
    shard = shards.shard(1)
    shard.records = shard.records[::-1].copy()
    entry = shard.save(own / NAMES[2], shards.manifest.layout, shards.manifest.set_id)
    entries = list(shards.manifest.shards)
    entries[1] = FileEntry(entry.file, entry.sha256, entry.images)
    Manifest(
        shards.manifest.settings, shards.manifest.layout, shards.manifest.index, tuple(entries),
        shards.manifest.versions,
    ).save(own)  # fmt: skip
    assert verify(own).problems == []
    for workers in (0, 1):
        (problem,) = verify(own, records=True, workers=workers).problems
        assert NAMES[2] in problem
        assert shards.keys[5] in problem


def test_a_stopped_run_continues(own: Path, tmp_path: Path, digests: list[str]) -> None:
    done = tmp_path / "done.txt"
    flip(own / NAMES[2])
    assert len(verify(own, resume=done).problems) == 1
    assert digests == NAMES
    digests.clear()
    report = verify(own, resume=done)  # only what was not intact
    assert (report.files, len(report.problems), digests) == (4, 1, [NAMES[2]])
    digests.clear()
    flip(own / NAMES[2])
    os.utime(own / NAMES[3], ns=(1, 1))
    assert verify(own, resume=done).problems == []
    assert digests == [NAMES[2], NAMES[3]]
    digests.clear()
    assert verify(own, resume=done, records=True).problems == []  # that is more than was done
    assert digests == NAMES


def test_a_copy_with_the_same_times(own: Path, tmp_path: Path, digests: list[str]) -> None:
    done = tmp_path / "done.txt"
    verify(own, resume=done)
    copy = shutil.copytree(own, tmp_path / "copy")  # like cp -p, rsync -t
    digests.clear()
    assert verify(copy, resume=done).problems == []
    assert digests == NAMES


def test_another_set_or_file(own: Path, tmp_path: Path, digests: list[str],
                             shard_sets: Callable[..., Path]) -> None:  # fmt: skip
    done = tmp_path / "done.txt"
    verify(own, resume=done)
    digests.clear()
    verify(shard_sets("randaug_mixing"), resume=done)
    assert digests == NAMES
    for text in ("{}", "images", '"x"'):
        done.write_text(f"{text}\n")
        with pytest.raises(FormatError, match=r"done\.txt"):
            verify(own, resume=done)


def test_a_remote_set(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("DR_PLUGINS_CACHE", str(tmp_path / "cache"))
    with serving(own) as server:
        assert verify(server.address, resume=tmp_path / "nothing.txt").problems == []
        assert "does not say when its files change" in caplog.text
        server.tagged = True
        shutil.rmtree(tmp_path / "cache")
        server.bodies.clear()
        done = tmp_path / "done.txt"
        assert verify(server.address, resume=done).problems == []
        bodies = sum(server.bodies[name] for name in NAMES)
        assert bodies == 4  # each file came once
        assert verify(server.address, resume=done).files == 4
        assert sum(server.bodies[name] for name in NAMES) == bodies
        flip(own / NAMES[2])
        (problem,) = verify(server.address, resume=done).problems
        assert NAMES[2] in problem


def die(number: int) -> None:
    os._exit(1)


def test_a_process_that_dies(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_files, "_check", die)
    with pytest.raises(WorkerError, match="--resume"):
        verify(own, workers=1)


def test_command(own: Path, tmp_path: Path) -> None:
    command = ["verify", str(own), "--quiet", "--workers", "1", "--records"]
    result = CliRunner().invoke(main, [*command, "--resume", str(tmp_path / "done.txt")])
    assert result.exit_code == 0, result.output
    assert len((tmp_path / "done.txt").read_text().splitlines()) == 4
    flip(own / NAMES[1])
    result = CliRunner().invoke(main, [*command, "--resume", str(tmp_path / "done.txt")])
    assert result.exit_code == 1
    assert NAMES[1] in result.output
