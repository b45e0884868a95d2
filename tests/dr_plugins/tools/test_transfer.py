"""Sets pushed to servers and pulled again are the same bytes."""

from __future__ import annotations

import errno
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from dr_plugins.cli.main import main
from dr_plugins.errors import (
    FormatError,
    OutputError,
    SettingsMismatchError,
    UnknownImageError,
)
from dr_plugins.images.sources import open_source
from dr_plugins.shards import remote
from dr_plugins.shards.reader import ShardSet
from dr_plugins.tools.transfer import pull, push
from tests import tiny
from tests.servers import FaultyServer, serving
from tests.stores import Hub, hub, object_store

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
pytest.importorskip("tenacity")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("transfer")
    tiny.make_photographs(root / "images", per_class=4)
    tiny.make_set(root / "set", root / "images", samples=20, shard_images=3)
    tiny.make_set(root / "reseeded", root / "images", samples=20, shard_images=3, seed=1)
    tiny.make_set(root / "other", root / "images", samples=21, shard_images=3)
    return root


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(remote, "_LONGEST_WAIT", 0.02)
    with serving(folder) as server:
        yield server


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in sorted(directory.iterdir())
        if path.suffix in (".json", ".safetensors", ".tmp")
    }


@pytest.mark.parametrize("kind", ["", "drop", "busy", "flip"])
def test_pull(server: FaultyServer, folder: Path, tmp_path: Path, kind: str) -> None:
    server.faults[kind] = 2
    pull(f"{server.address}/set", tmp_path / "here")
    assert files(tmp_path / "here") == files(folder / "set")


def test_pull_continues(server: FaultyServer, folder: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    pull(f"{server.address}/set", here)
    (here / "manifest.json").unlink()  # as if it had been stopped
    (here / "shard-00001.safetensors").unlink()
    damaged = bytearray((here / "shard-00002.safetensors").read_bytes())
    damaged[-9] ^= 1
    (here / "shard-00002.safetensors").write_bytes(damaged)
    server.requests.clear()
    pull(f"{server.address}/set", here)
    assert files(here) == files(folder / "set")
    assert {name for name, _ in server.requests} == {
        "manifest.json",
        "shard-00001.safetensors",
        "shard-00002.safetensors",
    }


def test_pull_of_a_damaged_shard(server: FaultyServer, tmp_path: Path) -> None:
    server.faults["flip"], server.only = 1 << 30, {"whole"}
    with pytest.raises(FormatError):
        pull(f"{server.address}/set", tmp_path / "here")
    assert not list(tmp_path.rglob("*.safetensors")) + list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("has_manifest", [True, False])
def test_pull_over_another_set(
    server: FaultyServer, folder: Path, tmp_path: Path, has_manifest: bool
) -> None:
    pull(f"{server.address}/other", tmp_path / "here")
    if not has_manifest:
        (tmp_path / "here" / "manifest.json").unlink()
    with pytest.raises(SettingsMismatchError, match="here"):
        pull(f"{server.address}/set", tmp_path / "here")


def test_an_object_store(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with object_store(monkeypatch) as store:
        store.mkdir("bucket")
        push(folder / "set", "s3://bucket/plus", licence="cc0-1.0")
        found = {name.rpartition("/")[2] for name in store.ls("bucket/plus")}
        assert {*files(folder / "set"), "README.md"} <= found
        pull("s3://bucket/plus", tmp_path / "here")
        assert files(tmp_path / "here") == files(folder / "set")
        with pytest.raises(SettingsMismatchError, match="bucket/plus"):
            push(folder / "other", "s3://bucket/plus", licence="cc0-1.0")
        with pytest.raises(OutputError, match="nowhere"):
            push(folder / "set", "s3://nowhere/plus", licence="cc0-1.0")


def test_what_another_set_left_is_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files have the same names and sizes."""
    store = fsspec.filesystem("memory")
    address = f"memory://bucket/{tmp_path.name}"
    push(folder / "reseeded", address, licence="cc0-1.0")
    store.rm(f"/bucket/{tmp_path.name}/manifest.json")  # as if it had been stopped
    push(folder / "set", address, licence="cc0-1.0")
    pull(address, tmp_path / "here")
    assert files(tmp_path / "here") == files(folder / "set")

    copied, put = [], type(store).put_file

    def noting(self: Any, local: str, remote: str, **options: Any) -> Any:
        copied.append(Path(local).suffix)
        return put(self, local, remote, **options)

    monkeypatch.setattr(type(store), "put_file", noting)
    push(folder / "set", address, licence="cc0-1.0")
    assert ".json" in copied
    assert ".safetensors" not in copied


def test_a_store_that_cannot_be_reached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> bool:
        raise OSError(errno.EIO, "no connection")

    monkeypatch.setattr(remote.RemotePath, "exists", unreachable)
    with pytest.raises(OutputError, match=r"memory://.*no connection"):
        push(folder / "set", "memory://bucket/set", licence="cc0-1.0")


def test_a_store_that_does_not_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("AccessDenied")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "ls", fail)
    with pytest.raises(OutputError, match=r"memory://.*AccessDenied"):
        push(folder / "set", "memory://bucket/unlisted", licence="cc0-1.0")


def test_a_set_without_a_shard_is_not_pushed(server: FaultyServer, tmp_path: Path) -> None:
    here = tmp_path / "here"
    pull(f"{server.address}/set", here)
    (here / "shard-00001.safetensors").unlink()
    with pytest.raises(FormatError, match="shard-00001"):
        push(here, "memory://bucket/incomplete", licence="cc0-1.0")


def test_a_directory_in_place_of_a_shard(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / "here" / "shard-00001.safetensors").mkdir(parents=True)
    with pytest.raises(OutputError, match="shard-00001"):
        pull(f"{server.address}/set", tmp_path / "here")


def test_an_address_of_the_hub_without_an_owner(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub(monkeypatch), pytest.raises(OutputError, match="OWNER/NAME"):
        push(folder / "set", "hf://datasets/plus", licence="cc-by-4.0")


def test_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "hf://datasets/some/plus"
    with hub(monkeypatch) as server:
        push(folder / "set", address, licence="cc-by-4.0")
        assert list(server.commits[-1]) == ["manifest.json"]
        assert len(server.commits) == 3  # the data, card and preview, the manifest
        _check_card(server.files["README.md"].decode(), folder / "set", address)
        _check_preview(server, folder / "set", tmp_path)
        pull(address, tmp_path / "here")
        assert files(tmp_path / "here") == files(folder / "set")

        del server.files["shard-00001.safetensors"], server.files["manifest.json"]
        server.commits.clear()
        push(folder / "set", address, licence="cc-by-4.0")
        assert "shard-00001.safetensors" in server.files
        assert not any("shard-00000.safetensors" in commit for commit in server.commits)


def test_a_card_with_images_shows_views(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_source(str(folder / "images"))
    tiny.make_photographs(tmp_path / "others", per_class=1, classes=("dog", "cat", "cow"))
    with hub(monkeypatch) as server:
        address = "hf://datasets/some/plus"
        others = open_source(str(tmp_path / "others"))
        with pytest.raises(UnknownImageError):
            push(folder / "set", address, licence="cc0-1.0", images=others)
        assert not server.files
        push(folder / "set", address, licence="cc0-1.0", images=images)
        assert "(views.jpg)" in server.files["README.md"].decode()
        assert Image.open(io.BytesIO(server.files["views.jpg"])).width > 1000


def test_the_command_publishes_what_readers_load(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets")
    address, here = "s3://bucket/plus", str(tmp_path / "here")
    licence = ["--license", "cc0-1.0", "--images", str(folder / "images"), "--quiet"]
    with object_store(monkeypatch) as store:
        store.mkdir("bucket")
        for command in (
            ["push", str(folder / "set"), address, *licence],
            ["verify", address, "--images", str(folder / "images"), "--replay", "12"],
            ["pull", address, here],
        ):
            result = CliRunner().invoke(main, command)
            assert result.exit_code == 0, result.output
        store.get("bucket/plus/", str(tmp_path / "repository"), recursive=True)
    shown = {row["image"] for row in _viewer(datasets, tmp_path / "repository")}
    assert shown == set(ShardSet(here).keys)
    assert Image.open(tmp_path / "repository" / "views.jpg").width > 1000


def _viewer(datasets: Any, repository: Path) -> Any:
    """What the Hub's viewer shows of a repository: the table that its card names."""
    _, head, _ = (repository / "README.md").read_text().split("---\n", 2)
    (config,) = yaml.safe_load(head)["configs"]
    return datasets.load_dataset(str(repository), config["config_name"], split="train")


def _check_card(text: str, directory: Path, address: str) -> None:
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "cc-by-4.0"
    shards = ShardSet(directory)
    assert "views.jpg" not in body
    for fact in (address, shards.manifest.set_id, "12 ", "random_resized_crop"):
        assert fact in body


def _check_preview(server: Hub, directory: Path, folder: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (folder / "preview.parquet").write_bytes(server.files["preview.parquet"])
    rows: list[dict[str, Any]] = parquet.read_table(folder / "preview.parquet").to_pylist()
    shards = ShardSet(directory)
    for row in rows:
        record = shards[row["image"], row["sample"]]
        assert row["classes"] == [tiny.CLASSES[i] for i in record["ids"]]
        assert row["probabilities"] == record["probs"].tolist()
        assert row["label"] == row["image"].partition("/")[0]
    assert {row["image"] for row in rows} == set(shards.keys)


def test_a_damaged_set_is_not_published(
    server: FaultyServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(f"{server.address}/set", tmp_path / "here")
    path = tmp_path / "here" / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with object_store(monkeypatch) as store:
        store.mkdir("bucket")
        with pytest.raises(FormatError, match="shard-00001"):
            push(tmp_path / "here", "s3://bucket/plus", licence="cc0-1.0")
        assert not store.exists("bucket/plus/manifest.json")


def test_commands(server: FaultyServer, folder: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    here = str(tmp_path / "here")
    result = run(main, ["pull", f"{server.address}/set", here])
    assert (result.exit_code, "12 images" in result.stdout) == (0, True)
    assert run(main, ["pull", str(folder / "set"), here]).exit_code == 1
    assert run(main, ["push", str(tmp_path / "nothing"), "s3://a/b"]).exit_code == 2
    assert json.loads((tmp_path / "here" / "manifest.json").read_text())["set_id"]
    assert hashlib.sha256(Path(here, "manifest.json").read_bytes()).digest()
