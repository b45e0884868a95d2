from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from dr_plugins.errors import FormatError
from dr_plugins.images.sources import ImageSource
from dr_plugins.shards.manifest import Manifest
from dr_plugins.tools.verify import verify
from tests.data.make_golden import HERE
from tests.tiny import make_photographs

GOLDEN = HERE / "golden-all"
FILES = ["index.safetensors", "shard-00000.safetensors", "shard-00001.safetensors"]


@pytest.fixture
def own(tmp_path: Path, shard_sets: Callable[..., Path]) -> Path:
    return shutil.copytree(shard_sets("randaug_mixing"), tmp_path / "own")


def folder(path: Path) -> ImageSource:
    return ImageSource(ImageFolder(str(path)))


def test_all_is_well(shard_sets: Callable[..., Path], photographs: Path) -> None:
    report = verify(shard_sets(), folder(photographs), replay=5)
    assert (report.files, report.replayed, report.problems) == (4, 5, [])


@settings(max_examples=60)
@given(file=st.sampled_from(FILES), place=st.floats(0, 1), value=st.integers(1, 255))
def test_any_changed_byte_of_any_file_is_found(
    tmp_path_factory: pytest.TempPathFactory, file: str, place: float, value: int
) -> None:
    own = shutil.copytree(GOLDEN, tmp_path_factory.mktemp("verify") / "own")
    data = bytearray((own / file).read_bytes())
    data[round(place * (len(data) - 1))] ^= value
    (own / file).write_bytes(data)
    (problem,) = verify(own).problems
    assert file in problem
    assert "opy it again" in problem


@pytest.mark.parametrize("tensor", ["labels", "sizes", "fingerprints", "records"])
def test_every_part_of_a_shard_is_covered(own: Path, tensor: str) -> None:
    from safetensors.numpy import load_file, save

    path = own / "shard-00001.safetensors"
    tensors = load_file(path)
    whole = path.read_bytes()
    position = whole.index(tensors[tensor].tobytes())
    path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    (problem,) = verify(own).problems
    assert "shard-00001.safetensors is damaged" in problem
    path.write_bytes(save(tensors))  # a whole file of the same tensors, but not ours
    (problem,) = verify(own).problems
    assert "shard-00001.safetensors" in problem


@pytest.mark.parametrize("file", FILES)
def test_missing_files_are_found(own: Path, file: str) -> None:
    (own / file).unlink()
    report = verify(own)
    assert report.files == 4
    (problem,) = report.problems
    assert f"{file}: No such file" in problem


def test_all_damaged_files_are_reported(own: Path, photographs: Path) -> None:
    for file in FILES:
        with open(own / file, "ab") as handle:
            handle.write(b"\0")
    report = verify(own, folder(photographs), replay=3)
    assert len(report.problems) == 3
    assert report.replayed == 0


def test_swapped_shards_are_found(own: Path) -> None:
    first, second = (own / f"shard-0000{i}.safetensors" for i in (0, 1))
    first.rename(own / "x")
    second.rename(first)
    (own / "x").rename(second)
    assert len(verify(own).problems) == 2


def test_a_policy_that_cannot_be_used_is_a_problem(own: Path) -> None:
    manifest = Manifest.load(own)
    policy = {**manifest.settings["policy"], "backend": "abacus"}
    Manifest(
        {**manifest.settings, "policy": policy},
        manifest.layout,
        manifest.index,
        manifest.shards,
        {},
    ).save(own)
    problems = verify(own).problems
    assert any("abacus" in problem for problem in problems)
    assert len(problems) == 4  # and each shard says that it is of another set


def test_no_set_at_all(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not a shard set"):
        verify(tmp_path)


def test_replaying_needs_images(own: Path) -> None:
    with pytest.raises(ValueError, match="replaying needs the images"):
        verify(own, replay=1)


def test_keys_missing_on_either_side(own: Path, tmp_path: Path, photographs: Path) -> None:
    few = ImageSource(Subset(ImageFolder(str(photographs)), range(10)))
    missing = sorted(set(folder(photographs).keys) - set(few.keys))
    assert verify(own, few).problems == [
        f"2 reinforced image(s) are missing, such as {missing[0]!r}"
    ]
    more = make_photographs(tmp_path / "more")
    Image.new("RGB", (9, 9)).save(more / "n02" / "extra.png")
    assert verify(own, folder(more)).problems == [
        "1 image(s) have no reinforcement, such as 'n02/extra.png'"
    ]


def flipped(path: Path) -> None:
    with Image.open(path) as image:
        changed = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    changed.save(path, quality=92)


@pytest.mark.parametrize(
    ("change", "replayed", "message"),
    [
        (flipped, 12, "{} does not replay"),
        (lambda path: Image.new("RGB", (20, 21)).save(path), 12, "{} is 21x20 pixels"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), 11, "cannot read image {}"),
    ],
)
def test_a_changed_image_is_found_by_replaying(
    shard_sets: Callable[..., Path],
    tmp_path: Path,
    change: Callable[[Path], Any],
    replayed: int,
    message: str,
) -> None:
    images = make_photographs(tmp_path / "train")
    path = sorted(images.glob("n02/*"))[1]
    change(path)
    assert verify(shard_sets("rrc"), folder(images)).problems == []
    report = verify(shard_sets("rrc"), folder(images), replay=12)
    assert report.replayed == replayed
    (problem,) = report.problems
    assert message.format(f"'n02/{path.name}'") in problem


def test_other_classes_are_found(own: Path, photographs: Path) -> None:
    dataset = ImageFolder(str(photographs))
    dataset.classes = ["a", "b", "c"]
    (problem,) = verify(own, ImageSource(dataset), replay=1).problems
    assert "the first that differ are ('a', 'n01')" in problem


@pytest.mark.parametrize(("replay", "replayed"), [(1, 1), (2, 2), (7, 7), (1000, 12)])
def test_as_many_views_as_asked_for(
    own: Path, photographs: Path, replay: int, replayed: int
) -> None:
    assert verify(own, folder(photographs), replay=replay).replayed == replayed
