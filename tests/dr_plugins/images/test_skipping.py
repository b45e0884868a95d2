"""Lists of images to leave out: reading, unknown keys, other copies."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.images.skipping import read_keys, skipped_keys

KEYS = ["n01440764/n01440764_1.JPEG", "n01440764/n01440764_2.JPEG", "n02/n02000001_3.JPEG"]


def test_files_of_any_system(tmp_path: Path) -> None:
    path = tmp_path / "skip.txt"
    path.write_bytes("\ufeffb/é x.png\r\n\r\na.png\nb/é x.png\n".encode())
    assert read_keys(path) == ["a.png", "b/é x.png"]
    with pytest.raises(DatasetMismatchError, match=re.escape(str(tmp_path / "none"))):
        read_keys(tmp_path / "none")


def test_keys_or_a_file_of_them(tmp_path: Path) -> None:
    path = tmp_path / "skip.txt"
    path.write_text(f"{KEYS[1]}\n")
    assert (
        skipped_keys(path, KEYS) == skipped_keys(str(path), KEYS) == skipped_keys([KEYS[1]], KEYS)
    )
    assert skipped_keys([], KEYS) == []


def test_a_list_of_another_copy() -> None:
    names = ["train/n01440764_2_n01440764.JPEG"]
    assert skipped_keys(names, KEYS) == [KEYS[1]]
    assert skipped_keys([KEYS[1]], names) == names


@pytest.mark.parametrize("wrong", ["n01440764/n01440764_9.JPEG", "dog/1.png"])
def test_an_unknown_key_is_an_error(wrong: str) -> None:
    with pytest.raises(DatasetMismatchError, match=re.escape(wrong)):
        skipped_keys([KEYS[0], wrong], KEYS)
    assert skipped_keys([KEYS[0], wrong], KEYS, others=[{wrong}]) == [KEYS[0]]
