"""Shard sets that are deleted or replaced under their memory maps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from dr_plugins import ReinforcedDataset
from dr_plugins.errors import FormatError
from dr_plugins.shards.reader import ShardSet
from tests.tiny import make_set, policy


@pytest.fixture
def train(tmp_path: Path, photographs: Path) -> ReinforcedDataset:
    """It has read every shard."""
    train = ReinforcedDataset(
        ImageFolder(str(photographs)), make_set(tmp_path / "set", photographs)
    )
    train.__getitems__(range(12))
    return train


def copy_in_place(source: Path, target: Path) -> None:
    """As `cp` does: it shortens a file, and writes it again."""
    for file in sorted(source.glob("*.*")):
        shutil.copyfile(file, target / file.name)


def replace(directory: Path, other: Path) -> None:
    copy_in_place(other, directory)


def replace_the_first_files(directory: Path, other: Path) -> None:
    """The first shard is just being written: reading its map ends the process."""
    for name in ("index.safetensors", "manifest.json"):
        shutil.copyfile(other / name, directory / name)
    os.truncate(directory / "shard-00000.safetensors", 0)


def shorten_the_index(directory: Path, other: Path) -> None:
    os.truncate(directory / "index.safetensors", 0)


def delete(directory: Path, other: Path) -> None:
    shutil.rmtree(directory)


def shorten_a_shard(directory: Path, other: Path) -> None:
    os.truncate(directory / "shard-00000.safetensors", 0)


CHANGES = [replace, replace_the_first_files, shorten_the_index, shorten_a_shard, delete]


@pytest.mark.parametrize("change", CHANGES)
def test_the_next_batch_is_an_error(
    train: ReinforcedDataset,
    tmp_path: Path,
    photographs: Path,
    change: Callable[[Path, Path], None],
) -> None:
    other = make_set(tmp_path / "other", photographs, policy_=policy("rrc"))
    change(train.shards.directory, other)
    with pytest.raises(FormatError, match=str(train.shards.directory)):
        train.__getitems__(range(12))


def test_the_same_set_may_be_touched_or_copied_over_itself(
    train: ReinforcedDataset, tmp_path: Path
) -> None:
    directory = train.shards.directory
    for file in directory.iterdir():
        os.utime(file, (0, 0))
    train.__getitems__(range(12))
    copy_in_place(shutil.copytree(directory, tmp_path / "copy"), directory)
    train.__getitems__(range(12))


def test_a_new_set_may_take_the_place(
    train: ReinforcedDataset, tmp_path: Path, photographs: Path
) -> None:
    copy_in_place(make_set(tmp_path / "other", photographs, topk=3), train.shards.directory)
    shards = ShardSet(train.shards.directory)
    shards.check_in_place()
    assert shards.manifest.topk == 3
