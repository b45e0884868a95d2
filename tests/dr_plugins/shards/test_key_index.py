from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_plugins.errors import FormatError, UnknownImageError
from dr_plugins.shards.key_index import KeyIndex

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
