"""Unreadable images are known before the teacher works, and can be left out."""

from __future__ import annotations

import logging
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from dr_plugins.errors import (
    DatasetMismatchError,
    ImageReadError,
    SettingsMismatchError,
    UnknownImageError,
)
from dr_plugins.generation.generate import GenerationSettings, reinforce
from dr_plugins.generation.readable import find_unreadable, skip_list
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import ImageSource, open_source
from dr_plugins.shards.reader import ShardSet
from dr_plugins.tools.verify import verify
from dr_plugins.training.dataset import ReinforcedDataset
from tests.dr_plugins.generation.whole_sets import Counting
from tests.tiny import TinyTeacher, make_photographs, photograph, policy

DAMAGED = ["n01/n01_2.JPEG", "n02/n02_4.JPEG", "n03/n03_9.JPEG"]


def generate(out: Path, source: ImageSource, **options: Any) -> None:
    settings = GenerationSettings(policy("rrc"), samples=3, topk=2, batch_size=16, shard_images=5)
    reinforce(source, Ensemble([TinyTeacher()]), out, settings, **options)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Photographs of which three are cut off, empty, and no image."""
    root = make_photographs(tmp_path / "train")
    for key, content in zip(DAMAGED, (None, b"", b"<html>"), strict=True):
        path = root / key
        path.write_bytes(path.read_bytes()[:300] if content is None else content)
    return root


@pytest.mark.parametrize("workers", [0, 1])
def test_all_of_them_are_listed_at_once(damaged: Path, tmp_path: Path, workers: int) -> None:
    teacher = Counting()
    settings = GenerationSettings(policy("rrc"), samples=3, topk=2)
    with pytest.raises(ImageReadError) as caught:
        reinforce(
            open_source(str(damaged)), Ensemble([teacher]), tmp_path / "set", settings,
            workers=workers,
        )  # fmt: skip
    assert all(f"'{key}'" in str(caught.value) for key in DAMAGED)
    assert str(caught.value).count("cannot read image") == 3
    assert teacher.calls == 1  # its classes are counted, nothing else


def test_what_is_cut_off_or_damaged(tmp_path: Path) -> None:
    """Beginning and end show the first kind; decoding shows both."""
    root = tmp_path / "images"
    (root / "a").mkdir(parents=True)
    expected: dict[str, set[str]] = {"quick": set(), "full": set()}
    for kind in ("jpg", "png", "webp", "bmp", "tif", "ppm"):
        path = root / "a" / f"whole.{kind}"
        photograph(0, 60, 70).save(path)
        data = path.read_bytes()
        path.with_stem("cut").write_bytes(data[: len(data) // 2])
        path.with_stem("padded").write_bytes(data + bytes(20))
        for found in expected.values():
            found.add(f"a/cut.{kind}")
    data = bytearray((root / "a" / "whole.png").read_bytes())
    data[len(data) // 2] ^= 255
    (root / "a" / "damaged.png").write_bytes(data)
    expected["full"].add("a/damaged.png")
    source = open_source(str(root))
    for check, keys in expected.items():
        assert set(find_unreadable(source, check=check)) == keys


def test_images_in_archives_and_of_other_datasets(damaged: Path, tmp_path: Path) -> None:
    data = pytest.importorskip("timm.data")
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for name in ("n01", "n02", "n03"):
            tar.add(damaged / name, name)
    archive = ImageSource(data.ImageDataset(str(tmp_path / "train.tar")))
    own = ImageSource(ImageFolder(str(damaged), loader=Image.open))
    for source in (archive, own):
        for workers in (0, 1):
            assert sorted(find_unreadable(source, workers=workers)) == DAMAGED
    assert list(find_unreadable(archive, [archive.keys.index(DAMAGED[1])])) == DAMAGED[1:2]


# --- leaving them out -----------------------------------------------------------------------------


@pytest.fixture
def reduced(damaged: Path, tmp_path: Path) -> Path:
    """A set of the images that can be read."""
    source = open_source(str(damaged))
    generate(tmp_path / "set", source, left_out=skip_list(tmp_path / "skip.txt", source))
    return tmp_path / "set"


def test_the_list_is_written_once_and_decides_from_then_on(damaged: Path, tmp_path: Path) -> None:
    source, path = open_source(str(damaged)), tmp_path / "skip.txt"
    assert skip_list(path, source) == DAMAGED
    assert path.read_text() == "".join(f"{key}\n" for key in DAMAGED)
    photograph(0, 30, 30).save(damaged / DAMAGED[0])  # restored
    assert skip_list(path, source) == DAMAGED
    path.write_text(f"{DAMAGED[1]}\r\n{DAMAGED[0]}\r\n", encoding="utf-8-sig", newline="")
    assert skip_list(path, source) == DAMAGED[:2]
    with pytest.raises(ImageReadError, match=DAMAGED[2]):
        generate(tmp_path / "set", source, left_out=skip_list(path, source))
    (tmp_path / "folder").mkdir()
    with pytest.raises(DatasetMismatchError, match="folder"):
        skip_list(tmp_path / "folder", source)


def test_a_set_without_them_is_used_with_the_same_folder(
    reduced: Path, damaged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert ShardSet(reduced).manifest.left_out == DAMAGED
    assert len(ShardSet(reduced)) == 9
    with caplog.at_level(logging.WARNING):
        train = ReinforcedDataset(ImageFolder(str(damaged)), reduced, p=0.5)
    assert "3 of 12 images" in caplog.text
    assert len(train) == 9
    assert not set(train.source.keys) & set(DAMAGED)
    whole = ImageFolder(str(damaged))
    labels = {whole.samples[i][0].removeprefix(f"{damaged}/"): i for i in range(12)}
    for index, (view, targets) in enumerate(train.__getitems__(range(9))):
        assert view.shape == (3, 24, 24)
        assert targets.labels == whole.targets[labels[train.source.keys[index]]]
    report = verify(reduced, open_source(str(damaged)), replay=12)
    assert (report.replayed, report.problems) == (9, [])


def test_other_images_are_not_left_out(reduced: Path, damaged: Path) -> None:
    photograph(0, 30, 30).save(damaged / "n01" / "new.png")
    with pytest.raises(UnknownImageError, match=r"1 image.*'n01/new\.png'"):
        ReinforcedDataset(ImageFolder(str(damaged)), reduced)


def test_the_list_is_part_of_the_identity(reduced: Path, damaged: Path) -> None:
    source = open_source(str(damaged))
    generate(reduced, source, left_out=DAMAGED[::-1])  # complete
    for key in DAMAGED:
        (damaged / key).unlink()
    source = open_source(str(damaged))
    generate(reduced, source, left_out=DAMAGED)
    with pytest.raises(SettingsMismatchError, match="left_out"):
        generate(reduced, source)


def test_mixing_takes_partners_from_what_is_left(damaged: Path, tmp_path: Path) -> None:
    source = open_source(str(damaged))
    settings = GenerationSettings(policy("mixing"), samples=6, topk=2)
    reinforce(source, Ensemble([TinyTeacher()]), tmp_path / "set", settings, left_out=DAMAGED)
    train = ReinforcedDataset(ImageFolder(str(damaged)), tmp_path / "set", p=1.0)
    for epoch in range(6):
        train.set_epoch(epoch)
        assert len(train.__getitems__(range(9))) == 9
