"""Which folders are classes, and which files are their images."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from dr_plugins.errors import DatasetMismatchError, UnknownImageError
from dr_plugins.images.sources import ImageSource, open_source
from dr_plugins.shards.claims import locked
from dr_plugins.tools.verify import verify
from dr_plugins.training.dataset import ReinforcedDataset
from tests.tiny import TinyTeacher, make_photographs, make_set, photograph


def images(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        photograph(number, 12, 14).save(root / name)
    return root


def test_images_and_classes_are_those_of_torchvision(tmp_path: Path) -> None:
    root = images(tmp_path, "b/x.PNG", "b/deep/er/y.jpg", "a/2.jpeg", "a/10.jpg", "c d/ü.webp")
    expected = ImageFolder(str(root))
    source = open_source(str(root))
    assert source.dataset.samples == expected.samples
    assert source.dataset.class_to_idx == expected.class_to_idx
    assert source.class_names == expected.classes == ["a", "b", "c d"]


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        (("n01440764", "n01443537", "n02085620"), None),
        (("class_1", "class_2", "class_10"), ("class_10", "class_2")),
        (("apple", "Cat"), ("Cat", "apple")),
    ],
)
def test_classes_that_timm_numbers_differently(
    names: tuple[str, ...], pair: tuple[str, str] | None, tmp_path: Path
) -> None:
    """timm's order is the one in which they are listed here."""
    pytest.importorskip("timm")
    from timm.data.readers.reader_image_folder import find_images_and_targets

    root = images(tmp_path / "images", *(f"{name}/1.png" for name in names))
    _, numbers = find_images_and_targets(str(root))
    assert sorted(numbers, key=numbers.__getitem__) == [*names]
    assert open_source(str(root)).base.ambiguous() == pair
    (tmp_path / "classes.txt").write_text("\n".join(names))
    assert open_source(str(root), tmp_path / "classes.txt").base.ambiguous() is None


@pytest.mark.parametrize("pair", [("Cat", "cat"), ("01", "1")])
def test_classes_that_timm_numbers_at_random(pair: tuple[str, str], tmp_path: Path) -> None:
    """It sorts a set of names, so that equal ones come in the order of hashes."""
    root = images(tmp_path, *(f"{name}/1.png" for name in pair))
    assert open_source(str(root)).base.ambiguous() == pair


# --- splits ---------------------------------------------------------------------------------------

SPLITS = [
    ["train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg", "val/dog/4.jpg"],
    ["Training/cat/1.jpg", "Testing/cat/3.jpg"],
    ["train/1.jpg", "test/2.jpg"],  # flat, as competitions have it
    ["train/cat/1.jpg", "extra/2.jpg"],
    ["validation/cat/1.jpg"],
]
CLASSES = [
    ["train/1.jpg", "bus/2.jpg"],  # vehicles
    ["bus/red/1.jpg", "car/red/2.jpg"],
    ["cat/train/1.jpg", "dog/train/2.jpg"],
    ["cat/1.jpg"],
]


@pytest.mark.parametrize("files", SPLITS)
def test_splits_are_no_classes(files: list[str], tmp_path: Path) -> None:
    root = images(tmp_path / "data", *files)
    with pytest.raises(DatasetMismatchError, match="split"):
        open_source(str(root))
    (tmp_path / "classes.txt").write_text("\n".join(sorted({file.split("/")[0] for file in files})))
    assert len(open_source(str(root), tmp_path / "classes.txt")) == len(files)


@pytest.mark.parametrize("files", CLASSES)
def test_these_are_classes(files: list[str], tmp_path: Path) -> None:
    assert sorted(open_source(str(images(tmp_path, *files))).keys) == sorted(files)


# --- what is no image -----------------------------------------------------------------------------


def test_other_files_are_counted(tmp_path: Path) -> None:
    root = images(tmp_path, "a/1.jpg", "a/2.gif", "a/deep/3.gif", "b/4.png")
    for name in ("b/5.AVIF", "b/README", "top.jfif"):
        (root / name).write_bytes(b"x")
    source = open_source(str(root))
    assert sorted(source.keys) == ["a/1.jpg", "b/4.png"]
    assert source.left_out == {".gif": 2, ".avif": 1, "": 1}


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    root = images(tmp_path, "a/1.jpg")
    (root / "b").mkdir()
    with pytest.raises(DatasetMismatchError, match="'b'"):
        open_source(str(root))


@pytest.mark.parametrize("place", ["reinforcements/imagenet-plus", "set", "n01/set", "."])
def test_a_shard_set_among_its_images(place: str, tmp_path: Path) -> None:
    """Made, resumed, made again and verified; timm looks for it in the first of these places."""
    root = make_photographs(tmp_path / "train")
    out = root / place
    for _ in range(2):
        make_set(out, open_source(str(root)))
    next(out.glob("shard-*")).unlink()
    make_set(out, open_source(str(root)))
    assert verify(out, open_source(str(root)), replay=12).problems == []


def test_a_shard_set_that_was_never_begun(tmp_path: Path) -> None:
    root = images(tmp_path, "a/1.jpg")
    with locked(root / "reinforcements" / "set"):
        pass
    assert open_source(str(root)).class_names == ["a"]


def test_a_class_may_be_called_reinforcements(tmp_path: Path) -> None:
    root = images(tmp_path, "iron/1.jpg", "reinforcements/2.jpg")
    make_set(root / "reinforcements" / "set", open_source(str(root)), teacher=TinyTeacher(2))
    assert open_source(str(root)).class_names == ["iron", "reinforcements"]


def test_hidden_folders_without_images_are_no_classes(tmp_path: Path) -> None:
    root = images(tmp_path, "a/1.jpg")
    (root / ".cache").mkdir()
    assert open_source(str(root)).class_names == ["a"]


# --- class maps and spelling ----------------------------------------------------------------------


def test_a_class_map_may_begin_with_a_mark(tmp_path: Path) -> None:
    root = images(tmp_path / "data", "a/1.jpg", "b/2.jpg")
    (tmp_path / "classes.txt").write_text("b\r\na\r\n", encoding="utf-8-sig")
    assert open_source(str(root), tmp_path / "classes.txt").class_names == ["b", "a"]


def test_a_class_map_that_is_not_utf8(tmp_path: Path) -> None:
    root = images(tmp_path / "data", "a/1.jpg", "b/2.jpg")
    (tmp_path / "classes.txt").write_text("a\nb\n", encoding="utf-16")
    with pytest.raises(DatasetMismatchError, match=r"classes\.txt.*UTF-8"):
        open_source(str(root), tmp_path / "classes.txt")


def test_a_link_in_a_circle(tmp_path: Path) -> None:
    """The images would be found 40 times, under as many keys."""
    root = images(tmp_path / "data", "a/1.jpg", "a/more/2.jpg", "b/3.jpg")
    (root / "b" / "more").symlink_to(root / "a" / "more")
    assert len(open_source(str(root))) == 4
    (root / "a" / "more" / "again").symlink_to("..")
    with pytest.raises(DatasetMismatchError, match=r"a/more/again.*link"):
        open_source(str(root))


def test_names_that_look_the_same_are_told_apart(tmp_path: Path) -> None:
    composed = unicodedata.normalize("NFC", "café")
    decomposed = unicodedata.normalize("NFD", "café")
    root = images(tmp_path / "data", f"{decomposed}/1.jpg", "b/2.jpg")
    (tmp_path / "classes.txt").write_text(f"b\n{composed}\n", encoding="utf-8")
    with pytest.raises(DatasetMismatchError, match="normal form") as caught:
        open_source(str(root), tmp_path / "classes.txt")
    assert "'café'" in str(caught.value)
    assert r"'cafe\u0301'" in str(caught.value)


def test_two_keys_that_look_the_same_are_told_apart(tmp_path: Path) -> None:
    composed = unicodedata.normalize("NFC", "é")
    decomposed = unicodedata.normalize("NFD", "é")
    theirs = images(tmp_path / "theirs", f"a/{composed}.jpg", "b/2.jpg")
    ours = images(tmp_path / "ours", f"a/{decomposed}.jpg", "b/2.jpg")
    shards = make_set(tmp_path / "set", open_source(str(theirs)), teacher=TinyTeacher(2))
    with pytest.raises(UnknownImageError, match="normal form") as caught:
        ReinforcedDataset(open_source(str(ours)), shards)
    assert f"'a/{composed}.jpg'" in str(caught.value)
    assert r"'a/e\u0301.jpg'" in str(caught.value)
    first, second = verify(shards, ImageSource(ImageFolder(str(ours)))).problems
    assert first.split("such as ")[1] != second.split("such as ")[1]
    assert "normal form" in first
    assert "normal form" in second
