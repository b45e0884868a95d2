"""Images by the names that commands take, and the order of their classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.images.schemes import SCHEMES, Scheme
from dr_plugins.images.sources import ImageSource, image_keys, open_source
from dr_plugins.replay.replayer import Replayer
from dr_plugins.training.dataset import ReinforcedDataset
from tests.dr_plugins.images.test_sources import by_key, timm_dataset
from tests.tiny import TinyTeacher, make_photographs, make_set
from tests.tiny import policy as small


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """Class folders that sort differently by text and by number."""
    return make_photographs(tmp_path / "train", per_class=2, classes=("2", "10"))


def test_another_label_order_is_an_error_where_names_are_known(
    numbered: Path, tmp_path: Path
) -> None:
    folder, theirs = ImageFolder(str(numbered)), timm_dataset(numbered)
    assert (folder.classes, theirs.reader.class_to_idx) == (["10", "2"], {"2": 0, "10": 1})
    out = make_set(tmp_path / "set", numbered, teacher=TinyTeacher(2), policy_=small("rrc"))
    ReinforcedDataset(folder, out)
    with pytest.raises(DatasetMismatchError, match=r"first that differ are \('2', '10'\)"):
        ReinforcedDataset(theirs, out)


def test_another_label_order_is_an_error_where_only_labels_are_known(
    numbered: Path, tmp_path: Path
) -> None:
    folder, theirs = ImageFolder(str(numbered)), timm_dataset(numbered)
    out = make_set(tmp_path / "set", numbered, teacher=TinyTeacher(2), policy_=small("rrc"))
    pairs = [(image, label) for image, label in theirs]
    train = ReinforcedDataset(pairs, out, keys=image_keys(theirs))
    with pytest.raises(DatasetMismatchError, match=r"has label .*numbered differently"):
        train[0]
    same = ReinforcedDataset(list(folder), out, keys=image_keys(folder))
    assert len(same[0]) == 2


def test_other_classes_are_an_error(tmp_path: Path, photographs: Path, shard_sets: Any) -> None:
    root = make_photographs(tmp_path / "train", classes=("n01", "n02", "n04"))
    (root / "n04").rename(root / "n05")
    for i in (2, 4, 9, 11):
        (root / "n05" / f"n04_{i}.JPEG").rename(root / "n05" / f"n03_{i}.JPEG")
    source = ImageFolder(str(root))
    relabelled = ImageSource(source, image_keys(ImageFolder(str(photographs))))
    with pytest.raises(DatasetMismatchError, match=r"\('n05', 'n03'\)"):
        ReinforcedDataset(relabelled, shard_sets())
    fewer = Subset(ImageFolder(str(photographs)), range(4))
    assert len(ReinforcedDataset(fewer, shard_sets())) == 4


def test_class_map(tmp_path: Path, photographs: Path) -> None:
    names = tmp_path / "classes.txt"
    names.write_text("n03\nsea lion \n\nn02\nn01\n", encoding="utf-8")
    source = open_source(str(photographs), names)
    assert source.class_names == ["n03", "sea lion", "n02", "n01"]
    labels = {source.keys[i][:3]: source.load(i)[1] for i in range(len(source))}
    assert labels == {"n01": 3, "n02": 2, "n03": 0}
    out = make_set(tmp_path / "set", source, teacher=TinyTeacher(4), policy_=small("rrc"))
    shards = Replayer(source, ReinforcedDataset(source, out).shards).shards
    assert shards.manifest.num_classes == 4
    assert shards.image(shards.keys.row("n02/n02_2.JPEG")).label == 2
    with pytest.raises(DatasetMismatchError, match="3 classes, the shard set 4"):
        ReinforcedDataset(ImageFolder(str(photographs)), out)


def test_class_maps_of_timm_agree(tmp_path: Path, photographs: Path) -> None:
    names = tmp_path / "classes.txt"
    names.write_text("n03\nn02\nn01\n")
    theirs = ImageSource(timm_dataset(photographs, class_map=str(names)))
    ours = open_source(str(photographs), names)
    assert theirs.class_names == ours.class_names == ["n03", "n02", "n01"]
    assert by_key(theirs) == by_key(ours)


@pytest.mark.parametrize(
    ("content", "message"),
    [("n01\nn02\n", "'n03' are not in the class map"), ("n01\nn02\nn03\nn02\n", "twice")],
)
def test_class_maps_that_do_not_fit(
    tmp_path: Path, photographs: Path, content: str, message: str
) -> None:
    names = tmp_path / "classes.txt"
    names.write_text(content)
    with pytest.raises(DatasetMismatchError, match=message):
        open_source(str(photographs), names)


@pytest.mark.parametrize(
    "spec",
    [
        "nowhere",
        "torchvision:CIFAR10",
        "torchvision:CIFAR10:nowhere",
        "torchvision:CIFAR11:nowhere",
        "torchvision:ImageFolder:nowhere",
        "torchvision:vision:nowhere",
        "",
    ],
)
def test_images_that_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetMismatchError, match=r"cannot open images .*torchvision:NAME:ROOT"):
        open_source(spec)


def test_a_scheme_is_one_entry(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, bool]] = []

    def open_mine(rest: str, class_names: object, train: bool) -> ImageFolder:
        opened.append((rest, train))
        return ImageFolder(str(photographs))

    monkeypatch.setitem(SCHEMES, "mine", Scheme("THIS", open_mine))
    assert len(open_source("mine:a:b", train=False)) == 12
    assert opened == [("a:b", False)]
    with pytest.raises(DatasetMismatchError, match="mine:THIS"):
        open_source("nowhere")


def test_a_scheme_of_another_package(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foreign_images.py").write_text(
        "from torchvision.datasets import ImageFolder\n"
        "def open_images(rest, class_names, train):\n"
        "    return ImageFolder(rest)\n"
    )
    package = tmp_path / "foreign_images-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-images\nVersion: 1\n")
    (package / "entry_points.txt").write_text(
        "[dr_plugins.images]\nforeign = foreign_images:open_images\nbroken = foreign_images:gone\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert len(open_source(f"foreign:{photographs}")) == 12
    with pytest.raises(DatasetMismatchError, match=r"gone.*foreign:"):
        open_source("broken:x")


def test_a_folder_may_have_a_schemes_name(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tar").symlink_to(photographs)
    monkeypatch.chdir(tmp_path)
    assert len(open_source("tar")) == 12


def test_a_folder_is_a_path_too(photographs: Path) -> None:
    assert open_source(photographs).keys == open_source(str(photographs)).keys


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "n01").mkdir()
    with pytest.raises(DatasetMismatchError, match="cannot open images"):
        open_source(str(tmp_path))
    with pytest.raises(DatasetMismatchError, match="cannot open images"):
        open_source(str(tmp_path), tmp_path / "no-class-map.txt")
