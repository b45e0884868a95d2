"""Training without the images of a list."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from dr_plugins import ReinforcedDataset, ShardSet
from dr_plugins.cli.main import main
from dr_plugins.errors import DatasetMismatchError
from tests.tiny import make_photographs, make_set, policy


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photographs(tmp_path_factory.mktemp("images") / "train")


@pytest.fixture(scope="module", params=["randaug", "randaug_mixing"])
def directory(
    root: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    return make_set(tmp_path_factory.mktemp("set") / "set", root, policy_=policy(request.param))


def dataset(root: Path, directory: Path, **options: object) -> ReinforcedDataset:
    return ReinforcedDataset(ImageFolder(str(root)), directory, p=1.0, **options)  # type: ignore[arg-type]


def test_the_other_images_are_the_same(
    root: Path, directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the left out images are mixed into their views."""
    every = dataset(root, directory)
    skip = tmp_path / "skip.txt"
    listed = every.source.keys[1::3]
    skip.write_text("\n".join(listed) + "\n")
    with caplog.at_level(logging.WARNING):
        some = pickle.loads(pickle.dumps(dataset(root, directory, skip=skip)))
    assert f"{len(listed)} of {len(every)}" in caplog.text
    kept = [key for key in every.source.keys if key not in listed]
    assert list(some.source.keys) == kept
    for epoch in range(6):
        every.set_epoch(epoch)
        some.set_epoch(epoch)
        for index, key in enumerate(kept):
            view, target = some[index]
            other_view, other = every[list(every.source.keys).index(key)]
            assert torch.equal(view, other_view)
            assert torch.equal(target.dense(), other.dense())
            assert torch.equal(target.labels, other.labels)


def test_every_fingerprint_is_checked_as_before(root: Path, directory: Path) -> None:
    some = dataset(root, directory, skip=[ShardSet(directory).keys[0]])
    assert all(some.replayer.compare(index) for index in range(len(some)))


def test_lists_for_the_whole_set_fit_a_part_of_it(root: Path, tmp_path: Path) -> None:
    directory = make_set(tmp_path / "set", root)
    images = ImageFolder(str(root))
    keys = list(ReinforcedDataset(images, directory).source.keys)
    part = Subset(images, range(6))
    found = ReinforcedDataset(part, directory, skip=[keys[2], keys[9]])
    assert list(found.source.keys) == [key for key in keys[:6] if key != keys[2]]
    with pytest.raises(DatasetMismatchError, match="n01/none"):
        ReinforcedDataset(part, directory, skip=["n01/none"])
    with pytest.raises(DatasetMismatchError):
        ReinforcedDataset(part, directory, skip=keys)


def test_reinforce_leaves_them_out_and_records_it(root: Path, tmp_path: Path) -> None:
    keys = list(ShardSet(make_set(tmp_path / "whole", root)).keys)
    skip, out = tmp_path / "skip.txt", tmp_path / "set"
    skip.write_text(f"{keys[4]}\n{keys[0]}\n")
    command = ["reinforce", "--images", str(root), "--teacher", "python:tests.tiny:build_teacher"]
    options = ["--size", "24", "--samples", "2", "--topk", "2", "--workers", "0", "--quiet"]
    options += ["--min-agreement", "0", "--device", "cpu", "--skip", str(skip), "--out", str(out)]
    result = CliRunner().invoke(main, [*command, *options])
    assert result.exit_code == 0, result.output
    shards = ShardSet(out)
    assert shards.manifest.left_out == [keys[0], keys[4]]
    assert list(shards.keys) == [key for key in keys if key not in (keys[0], keys[4])]
    trained = ReinforcedDataset(ImageFolder(str(root)), out, skip=skip)
    assert len(trained) == len(keys) - 2
    assert np.array_equal(trained.replayer.rows, np.arange(len(keys) - 2))

    skip.write_text("n01/none.JPEG\n")
    other = [*options[:-1], str(tmp_path / "other")]
    result = CliRunner().invoke(main, [*command, *other])
    assert result.exit_code == 1
    assert "n01/none.JPEG" in result.output
    assert not (tmp_path / "other").exists()
