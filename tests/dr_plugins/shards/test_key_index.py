from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_plugins.errors import FormatError, SettingsMismatchError, UnknownImageError
from dr_plugins.shards import key_index
from dr_plugins.shards.key_index import KeyIndex, united

some_keys = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=12)
key_sets = st.sets(some_keys, max_size=40)


@given(keys=key_sets, data=st.data())
def test_every_key_finds_its_row(keys: set[str], data: st.DataObject) -> None:
    index = KeyIndex.build(keys)
    assert list(index) == sorted(keys, key=str.encode)
    order = data.draw(st.permutations(sorted(keys)))
    rows = index.rows(order)
    assert [index[row] for row in rows.tolist()] == order
    assert [index.row(key) for key in order] == rows.tolist()


@given(keys=key_sets, other=some_keys)
def test_unknown_keys_are_named(keys: set[str], other: str) -> None:
    index = KeyIndex.build(keys - {other})
    for look_up in (lambda: index.row(other), lambda: index.rows([*keys - {other}, other])):
        with pytest.raises(UnknownImageError, match="1 image"):
            look_up()


def test_the_message_counts_and_shows_both_sides() -> None:
    index = KeyIndex.build(["train/a.jpg", "train/b.jpg"])
    with pytest.raises(UnknownImageError) as error:
        index.rows(["a.jpg", "b.jpg", "c.jpg", "d.jpg", "train/a.jpg"])
    assert "4 image(s)" in str(error.value)
    assert "'a.jpg', 'b.jpg', 'c.jpg', ..." in str(error.value)
    assert "for example 'train/a.jpg'" in str(error.value)


@pytest.mark.parametrize("keys", [["a", "a"], [""], ["a\0b"], ["a", "b\udcff.jpg"]])
def test_unusable_keys_are_refused(keys: list[str]) -> None:
    with pytest.raises(FormatError):
        KeyIndex.build(keys)


def test_file_round_trip(tmp_path: Path) -> None:
    index = KeyIndex.build([f"n{i % 7}/ü{i}.jpg" for i in range(100)])
    index.save(tmp_path / "i")
    loaded = KeyIndex.load(tmp_path / "i")
    assert list(loaded) == list(index)
    assert loaded.digest() == index.digest() != KeyIndex.build(["x"]).digest()
    assert list(pickle.loads(pickle.dumps(loaded))) == list(index)


def test_sizes_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    KeyIndex(np.frombuffer(b"abc", np.uint8), np.array([2, 1, 3])).save(tmp_path / "i")
    with pytest.raises(FormatError, match="do not add up"):
        KeyIndex.load(tmp_path / "i")


def test_a_prefix_is_another_key() -> None:
    index = KeyIndex.build(["a", "ab", "abc"])
    assert index.rows(["abc", "a", "ab"]).tolist() == [2, 0, 1]


@pytest.mark.parametrize("name", ["b\udcff.jpg", "\ud800"])
def test_names_that_are_not_utf8_are_unknown(name: str) -> None:
    index = KeyIndex.build(["a", "b"])
    for look_up in (index.row, lambda key: index.rows([key, "a"])):
        with pytest.raises(UnknownImageError, match=r"1 image\(s\) have no reinforcement: '"):
            look_up(name)


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_many_keys_are_looked_up_in_parts(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "_CHUNK", chunk)
    names = sorted((f"{i}/{'x' * (i % 3)}" for i in range(1, 20)), key=str.encode)
    index = KeyIndex.build(names)
    rng = np.random.default_rng(0)
    for rows in ([*range(19)], [*range(5, 12)], [5, 6, 8, 9], [18, 17, 0], [3, 3, 4],
                 rng.permutation(19).tolist(), []):  # fmt: skip
        assert index.rows([names[row] for row in rows]).tolist() == rows
    with pytest.raises(UnknownImageError, match=r"3 image.*'0', '99', '1'"):
        index.rows([names[2], "0", names[3], names[4], "99", names[18], "1"])


@pytest.mark.parametrize("chunk", [1, 2, 100])
@pytest.mark.parametrize("damage", [(1, 1), (2, 1), (0, 0), (0, -1), (4, 9), (4, 3)])
def test_ends_are_checked_in_parts(
    tmp_path: Path, chunk: int, damage: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_index, "_CHUNK", chunk)
    ends = np.arange(1, 6)
    text = np.frombuffer(b"abcde", np.uint8)
    KeyIndex(text, ends).save(tmp_path / "index.safetensors")
    assert KeyIndex.load(tmp_path / "index.safetensors")[:] == list("abcde")
    ends[damage[0]] = damage[1]
    KeyIndex(text, ends).save(tmp_path / "index.safetensors")
    with pytest.raises(FormatError, match=r"index\.safetensors"):
        KeyIndex.load(tmp_path / "index.safetensors")


@given(parts=st.lists(key_sets, min_size=1, max_size=4))
def test_united(parts: list[set[str]]) -> None:
    indices = [KeyIndex.build(part) for part in parts if part]
    everything = [key for index in indices for key in index]
    if len(set(everything)) < len(everything):
        with pytest.raises(SettingsMismatchError):
            united(indices, range(len(indices)))
        return
    index, owners = united(indices, range(len(indices)))
    assert index[:] == KeyIndex.build(everything)[:]
    assert index.digest() == KeyIndex.build(everything).digest()
    assert all(key in indices[owner] for key, owner in zip(index, owners, strict=True))


@given(keys=key_sets, data=st.data())
def test_taken_keys(keys: set[str], data: st.DataObject) -> None:
    index = KeyIndex.build(keys)
    rows = sorted(data.draw(st.sets(st.integers(0, len(keys) - 1)))) if keys else []
    taken = index.take(np.array(rows, np.int64))
    assert taken[:] == [index[row] for row in rows]
