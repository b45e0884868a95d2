"""Whatever is in the files: typed errors only, and no memory beyond what the files take."""

from __future__ import annotations

import copy
import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dr_plugins.errors import FormatError, ReinforcementError, UnknownImageError
from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.shards.container import write_tensors
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.manifest import settings_digest
from dr_plugins.shards.reader import ShardSet
from dr_plugins.tools.describe import describe
from dr_plugins.tools.verify import verify
from tests.data.make_golden import HERE, KEYS
from tests.dr_plugins.shards.mutations import damaged_bytes, mutations

GOLDEN = HERE / "golden-all"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text("utf-8"))
MEBIBYTE = 1 << 20


def peak_memory(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def takes_less_than(most: int, action: Callable[[], object]) -> bool:
    """Whether it stays below so many bytes, at the second try at the latest.

    pathlib interns each part of a path, and at some of them Python's table of interned strings
    grows by 8 MB.
    """
    return peak_memory(action) < most or peak_memory(action) < most


def use(directory: Path) -> None:
    """All that a set can be asked; errors of this package are expected."""
    try:
        shards = ShardSet(directory)
        verify(directory)
    except ReinforcementError:
        return
    for ask in (
        lambda: describe(shards),
        lambda: stored_policy(shards).decode(shards.read(np.arange(3), np.arange(3))),
        lambda: [shards.image(row) for row in range(len(shards))],
        lambda: [shards[key, 0] for key in shards.keys],
        lambda: shards.keys.rows(KEYS),
        lambda: repr(shards),
    ):
        try:
            ask()
        except (ReinforcementError, IndexError):
            continue


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What is imported at the first use is not memory that a damaged file takes."""
    use(GOLDEN)


def copied(factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(GOLDEN, factory.mktemp("fuzz") / "set")


@settings(max_examples=100)
@given(data=st.data())
@pytest.mark.parametrize("file", ["index.safetensors", "shard-00000.safetensors"])
def test_damaged_files(
    tmp_path_factory: pytest.TempPathFactory, file: str, data: st.DataObject
) -> None:
    own = copied(tmp_path_factory)
    (own / file).write_bytes(data.draw(damaged_bytes((GOLDEN / file).read_bytes())))
    assert takes_less_than(8 * MEBIBYTE, lambda: use(own))


def believed(directory: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest, and make the shards belong to its set."""
    set_id = "?"
    if isinstance(manifest.get("settings"), dict):
        set_id = manifest["set_id"] = settings_digest(manifest["settings"])
    original = ShardSet(GOLDEN)
    for number, entry in enumerate(original.manifest.shards):
        shard = copy.copy(original.shard(number))
        shard.records = shard.records.copy()
        shard.write(directory / entry.file, original.manifest.layout, original.keys, set_id)
    (directory / "manifest.json").write_text(json.dumps(manifest), "utf-8")


@settings(max_examples=100)
@given(manifest=mutations(MANIFEST))
def test_damaged_manifests(
    tmp_path_factory: pytest.TempPathFactory, manifest: dict[str, Any]
) -> None:
    own = copied(tmp_path_factory)
    believed(own, manifest)
    assert takes_less_than(8 * MEBIBYTE, lambda: use(own))


@given(text=st.binary(max_size=40), ends=st.lists(st.integers(-3, 41), max_size=6))
def test_key_indices_of_any_content(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, ends: list[int]
) -> None:
    path = tmp_path_factory.mktemp("index") / "index.safetensors"
    write_tensors(
        path, {"ends": np.array(ends, np.int64), "keys": np.frombuffer(text, np.uint8)}, {}
    )
    try:
        index = KeyIndex.load(path)
        list(index)
    except FormatError:
        return
    for ask in (lambda: index.rows([*index, "a"]), lambda: [index.row(key) for key in index]):
        try:
            ask()
        except UnknownImageError:  # keys in a wrong order
            continue


def test_a_key_of_invalid_utf8_is_named(tmp_path: Path) -> None:
    KeyIndex(np.frombuffer(b"a\xffb", np.uint8), np.array([1, 3])).save(tmp_path / "i")
    index = KeyIndex.load(tmp_path / "i")
    assert index[0] == "a"
    with pytest.raises(FormatError, match=r"xffb.*row 1"):
        index[1]


@pytest.mark.parametrize("length", [247, 200_000])
def test_one_long_key_costs_its_own_length(length: int) -> None:
    keys = [f"n{i:05d}.jpg" for i in range(20_000)]
    index = KeyIndex.build([*keys, "x" * length])

    def look_up() -> None:
        assert index.rows([*keys, "x" * length])[-1] == 20_000
        assert index.row("x" * length) == 20_000

    assert takes_less_than(5 * MEBIBYTE, look_up)


def test_an_endless_header_is_not_read(tmp_path: Path) -> None:
    header = b"[" + b"[]," * 1_000_000 + b"[]]"
    (tmp_path / "i").write_bytes(len(header).to_bytes(8, "little") + header)

    def load() -> None:
        with pytest.raises(FormatError):
            KeyIndex.load(tmp_path / "i")

    assert takes_less_than(2 * MEBIBYTE, load)
