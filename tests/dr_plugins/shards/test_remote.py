"""Shard sets read from servers: the records of the local set, or an error."""

from __future__ import annotations

import errno
import hashlib
import logging
import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from dr_plugins import ReinforcedDataset
from dr_plugins.errors import FormatError, OutputError
from dr_plugins.images.sources import open_source
from dr_plugins.replay.replayer import Replayer
from dr_plugins.shards import cache, remote, streaming
from dr_plugins.shards.address import located
from dr_plugins.shards.location import LocalPath
from dr_plugins.shards.mapped import StreamedShards
from dr_plugins.shards.reader import ShardSet
from dr_plugins.tools.describe import describe
from dr_plugins.tools.subset import subset
from dr_plugins.tools.verify import verify
from dr_plugins.utils.files import cache_directory
from tests import tiny
from tests.servers import FaultyServer, serving
from tests.stores import object_store

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
pytest.importorskip("tenacity")

SAMPLES = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs and their shard set."""
    root = tmp_path_factory.mktemp("remote")
    tiny.make_photographs(root / "images", per_class=5)
    tiny.make_set(root / "set", root / "images", samples=SAMPLES, shard_images=2)
    return root


@pytest.fixture
def server(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setenv("DR_PLUGINS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DR_PLUGINS_CACHE_GB", raising=False)
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(remote, "_LONGEST_WAIT", 0.02)
    with serving(folder) as server:
        yield server


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched ahead."""
    monkeypatch.setattr(streaming.ShardStream, "_fetch_ahead", lambda self: None)


def everything(shards: ShardSet) -> bytes:
    rows, samples = np.divmod(np.random.default_rng(0).permutation(len(shards) * SAMPLES), SAMPLES)
    order = np.lexsort((samples, rows))
    records = np.concatenate(
        [shards.read(r, s) for r, s in zip(np.array_split(rows, 9), np.array_split(samples, 9),
                                           strict=True)]
    )  # fmt: skip
    return records[order].tobytes()


def stream_of(shards: ShardSet) -> streaming.ShardStream:
    assert isinstance(shards._shards, StreamedShards)
    return shards._shards._stream


def wait(shards: ShardSet) -> None:
    fetcher = stream_of(shards)._fetcher
    assert fetcher is not None
    fetcher.join(20)
    assert not fetcher.is_alive()


def test_a_remote_set_is_the_local_set(server: FaultyServer, folder: Path) -> None:
    local, far = ShardSet(folder / "set"), ShardSet(f"{server.address}/set")
    assert far.keys[:] == local.keys[:]
    assert everything(far) == everything(local)
    wait(far)
    assert all(stream_of(far).whole(n) for n in range(len(far.manifest.shards)))
    assert [far.image(row) for row in range(len(far))] == [local.image(r) for r in range(len(far))]
    assert describe(far).replace(str(far.location), "") != ""
    server.requests.clear()
    again = ShardSet(f"{server.address}/set")  # from now on only the manifest is read there
    assert everything(again) == everything(local)
    assert set(server.requests) == {("manifest.json", "whole")}
    assert not list((cache_directory() / "partial").iterdir())


def test_a_set_whose_fingerprints_are_of_any_sample(
    server: FaultyServer, folder: Path, alone: None
) -> None:
    if not (folder / "half").exists():
        subset(folder / "set", folder / "half", keys=ShardSet(folder / "set").keys[1:])
    local, far = ShardSet(folder / "half"), ShardSet(f"{server.address}/half")
    assert local.shard(0).fingerprinted is not None
    assert everything(far) == everything(local)
    assert [far.image(row) for row in range(len(far))] == [local.image(r) for r in range(len(far))]
    assert all(access == "range" for name, access in server.requests if name.startswith("shard"))
    assert (far.shard(0).records == local.shard(0).records).all()  # fetches it


def test_the_first_records_arrive_by_themselves(
    server: FaultyServer, folder: Path, alone: None
) -> None:
    far = ShardSet(f"{server.address}/set")
    rows, samples = np.arange(len(far)), np.arange(len(far)) % SAMPLES
    assert (
        far.read(rows, samples).tobytes() == ShardSet(folder / "set").read(rows, samples).tobytes()
    )
    assert {name for name, access in server.requests if access == "whole"} == {
        "manifest.json",
        "index.safetensors",
    }
    server.requests.clear()
    other = pickle.loads(pickle.dumps(far))  # what is here is here for all processes
    other.read(rows, samples)
    assert not server.requests


def _read_all(address: str, wanted: bytes) -> None:
    os._exit(0 if everything(ShardSet(address)) == wanted else 1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_processes_share_the_cache(server: FaultyServer, folder: Path) -> None:
    far = ShardSet(f"{server.address}/set")
    wanted = everything(ShardSet(folder / "set"))
    far.read(np.arange(3), np.arange(3))  # the children are forked from a process that has read
    fork = multiprocessing.get_context("fork")
    children = [
        fork.Process(target=_read_all, args=(f"{server.address}/set", wanted)) for _ in range(4)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0] * 4
    wait(far)
    assert max(n for (name, access), n in server.requests.items() if access == "whole" and
               name.startswith("shard")) == 1  # fmt: skip


@pytest.mark.parametrize("kind", ["drop", "stall", "busy", "flip", "whole", "shift"])
@pytest.mark.parametrize("access", ["whole", "range"])
def test_passing_faults(
    server: FaultyServer, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, access: str
) -> None:
    monkeypatch.setattr(remote, "_SILENCE", 0.3)
    far = ShardSet(f"{server.address}/set")
    server.only, server.faults[kind] = {access}, 1 if access == "whole" else 5
    assert everything(far) == everything(ShardSet(folder / "set"))
    wait(far)


@pytest.mark.parametrize("kind", ["flip", "shift", "whole", "busy"])
def test_ranges_that_always_fail(
    server: FaultyServer, folder: Path, alone: None, kind: str
) -> None:
    server.only, server.faults[kind] = {"range"}, 1 << 30
    far = ShardSet(f"{server.address}/set")
    assert everything(far) == everything(ShardSet(folder / "set"))


def test_a_damaged_shard(server: FaultyServer, folder: Path, tmp_path: Path, alone: None) -> None:
    name = ShardSet(folder / "set").manifest.shards[1].file
    other = tmp_path / "copy"
    other.mkdir()
    for path in (folder / "set").iterdir():
        data = bytearray(path.read_bytes())
        if path.name == name:
            data[-SAMPLES * 5] ^= 1
        (other / path.name).write_bytes(data)
    with serving(tmp_path) as bad:
        far = ShardSet(f"{bad.address}/copy")
        far.read(np.arange(2), np.arange(2))
        with pytest.raises(FormatError, match=name):
            everything(far)
    assert not list((tmp_path / "cache" / "arriving").iterdir())


def test_a_cached_file_that_was_damaged_later(server: FaultyServer, folder: Path) -> None:
    far = ShardSet(f"{server.address}/set")
    everything(far)
    wait(far)
    for entry in far.manifest.shards:
        path = cache_directory() / "files" / entry.sha256
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.unlink()
        path.write_bytes(data)
    again = ShardSet(f"{server.address}/set")
    assert everything(again) == everything(ShardSet(folder / "set"))


def test_cached_files_that_were_cut_off(server: FaultyServer, folder: Path) -> None:
    """As after a power failure."""
    far = ShardSet(f"{server.address}/set")
    everything(far)
    wait(far)
    for entry in (far.manifest.index, *far.manifest.shards):
        path = cache_directory() / "files" / entry.sha256
        path.unlink()
        path.write_bytes(b"")
    again = ShardSet(f"{server.address}/set")
    assert everything(again) == everything(ShardSet(folder / "set"))


def test_a_cache_without_room(
    server: FaultyServer, folder: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    size = (folder / "set" / "shard-00000.safetensors").stat().st_size
    monkeypatch.setenv("DR_PLUGINS_CACHE_GB", str(3.5 * size / 1e9))
    far = ShardSet(f"{server.address}/set")
    with caplog.at_level(logging.WARNING):
        assert everything(far) == everything(ShardSet(folder / "set"))
        wait(far)
    assert "no room" in caplog.text
    files = (cache_directory() / "files").iterdir()
    assert sum(path.stat().st_size for path in files) <= 3.5 * size


def test_the_files_used_longest_ago_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DR_PLUGINS_CACHE", str(tmp_path))
    monkeypatch.setenv("DR_PLUGINS_CACHE_GB", str(40960 / 1e9))
    (tmp_path / "files").mkdir()
    for number, name in enumerate("abcd"):
        (tmp_path / "files" / name).write_bytes(b"x" * 8192)
        os.utime(tmp_path / "files" / name, (number, number))
    cache.find("a")  # used just now
    assert cache.make_room(16384)
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == ["a", "c", "d"]
    assert not cache.make_room(40960, frozenset("acd"))


def test_statistics_and_indices_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DR_PLUGINS_CACHE", str(tmp_path))
    monkeypatch.setenv("DR_PLUGINS_CACHE_GB", str(8192 / 1e9))
    for name in ("statistics", "archives"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.npz").write_bytes(b"x" * 8192)
    assert cache.make_room(8192)
    assert not list(tmp_path.glob("*/*"))


def test_a_full_disk(
    server: FaultyServer, folder: Path, monkeypatch: pytest.MonkeyPatch, alone: None
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    far = ShardSet(f"{server.address}/set")
    _ = far.keys
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match="DR_PLUGINS_CACHE"):
        everything(far)
    monkeypatch.setattr(remote.RemotePath, "download", full)
    with pytest.raises(OutputError, match="DR_PLUGINS_CACHE"):
        far.shard(0)


def test_a_cache_that_cannot_be_made(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DR_PLUGINS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match="DR_PLUGINS_CACHE"):
        _ = ShardSet(f"{server.address}/set").keys


@pytest.mark.parametrize("size", ["much", "-1", "0", "nan"])
def test_a_limit_that_is_none(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DR_PLUGINS_CACHE_GB", size)
    with pytest.raises(OutputError, match=f"DR_PLUGINS_CACHE_GB.*{size}"):
        cache.make_room(1)


def test_training_reads_a_remote_set(server: FaultyServer, folder: Path) -> None:
    images = ImageFolder(str(folder / "images"))
    trains = [
        ReinforcedDataset(images, shards, p=0.8, seed=3)
        for shards in (f"{server.address}/set", folder / "set")
    ]
    for epoch in range(2):
        batches = []
        for train in trains:
            train.set_epoch(epoch)
            loader = DataLoader(train, 4, num_workers=2, collate_fn=train.collate)
            batches.append(list(loader))
        for (views, targets), (wanted, labels) in zip(*batches, strict=True):
            assert torch.equal(views, wanted)
            assert torch.equal(targets.probs, labels.probs)


def test_views_replay(server: FaultyServer, folder: Path) -> None:
    source = open_source(str(folder / "images"))
    replayer = Replayer(source, ShardSet(f"{server.address}/set"))
    assert all(replayer.compare(index) for index in range(len(source)))
    assert verify(f"{server.address}/set", source, replay=3).problems == []


def test_what_is_not_there(server: FaultyServer) -> None:
    with pytest.raises(FormatError, match=r"nothing/manifest\.json"):
        ShardSet(f"{server.address}/nothing")


def test_who_may_not_read_is_not_tried_again(server: FaultyServer) -> None:
    server.faults["denied"] = 1
    with pytest.raises(FormatError, match="403"):
        ShardSet(f"{server.address}/set")


def test_ctrl_c_is_not_a_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def interrupted(*args: object) -> None:
        calls.append(args)
        raise KeyboardInterrupt

    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(remote, "_LONGEST_WAIT", 0.02)
    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "cat_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ShardSet("memory://bucket/set")
    assert len(calls) == 1


def test_what_cannot_be_looked_for_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec's own `exists` says no."""
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(remote, "_LONGEST_WAIT", 0.02)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "no answer")

    assert not located("memory://nowhere/set").exists()
    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "info", fail)
    with pytest.raises(OSError, match="no answer"):
        located("memory://nowhere/set").exists()


def test_an_unknown_scheme() -> None:
    with pytest.raises(FormatError, match="gopher://"):
        ShardSet("gopher://example/set")


def test_remote_sets_are_only_read() -> None:
    place = located("s3://bucket/set")
    for write in (lambda: place.write([b""]), place.remove, place.locks):
        with pytest.raises(OutputError, match="dr-plugins push"):
            write()


def test_addresses() -> None:
    assert located("file:///data/set") == LocalPath(Path("/data/set"))
    file = located("s3://bucket/set/") / "manifest.json"
    assert (str(file), file.name) == ("s3://bucket/set/manifest.json", "manifest.json")


def _read_once(address: str) -> None:
    ShardSet(address).read(np.zeros(1, np.int64), np.zeros(1, np.int64))


def test_a_process_killed_while_a_file_arrives(server: FaultyServer, folder: Path) -> None:
    server.faults["stall"] = 1 << 30
    child = multiprocessing.get_context("fork").Process(
        target=_read_once, args=(f"{server.address}/set",)
    )
    child.start()
    arriving = cache_directory() / "arriving"
    while child.is_alive() and not (arriving.is_dir() and any(arriving.iterdir())):
        child.join(0.01)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert any(arriving.iterdir())
    for path in (cache_directory() / "files").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    server.faults.clear()
    assert everything(ShardSet(f"{server.address}/set")) == everything(ShardSet(folder / "set"))


def test_what_killed_processes_left_is_deleted(server: FaultyServer) -> None:
    left, still_arriving = "a" * 64, "b" * 64
    for name in ("arriving", "locks"):
        (cache_directory() / name).mkdir(parents=True)
    for name in (left, still_arriving):
        (cache_directory() / "arriving" / name).write_bytes(b"half")
    far = ShardSet(f"{server.address}/set")
    with filelock.FileLock(cache_directory() / "locks" / still_arriving):
        far.read(np.arange(2), np.arange(2))
        wait(far)
    assert [path.name for path in (cache_directory() / "arriving").iterdir()] == [still_arriving]


def test_a_set_is_described_by_one_listing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: None
) -> None:
    monkeypatch.setenv("DR_PLUGINS_CACHE", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    for path in (folder / "set").glob("*.*"):
        store.pipe_file(f"/described/{path.name}", path.read_bytes())
    asked, info = [], store.info
    monkeypatch.setattr(store, "info", lambda path, **o: asked.append(path) or info(path, **o))
    assert describe(ShardSet("memory://described")) == describe(ShardSet(folder / "set"))
    assert not [path for path in asked if "shard-00002" in path]


def test_partial_shards_have_the_mode_of_the_umask(server: FaultyServer, alone: None) -> None:
    before = os.umask(0o027)
    try:
        ShardSet(f"{server.address}/set").read(np.zeros(1, np.int64), np.zeros(1, np.int64))
    finally:
        os.umask(before)
    partial = list((cache_directory() / "partial").iterdir())
    assert [path.stat().st_mode & 0o777 for path in partial] == [0o640]


def test_an_object_store(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DR_PLUGINS_CACHE", str(tmp_path / "cache"))
    with object_store(monkeypatch) as store:
        store.mkdir("bucket")
        store.put(str(folder / "set"), "bucket/plus", recursive=True)
        far = ShardSet("s3://bucket/plus")
        assert everything(far) == everything(ShardSet(folder / "set"))
        wait(far)
        with pytest.raises(FormatError, match="bucket/other"):
            ShardSet("s3://bucket/other")
