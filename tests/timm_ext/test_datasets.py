from __future__ import annotations

import io
import pickle
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm.data.dataset_factory
import torch
from PIL import Image, ImageFile
from timm.data import ImageDataset
from torchvision import datasets as vision

from dr_plugins import ImageSource, ReinforcedDataset, generation
from dr_plugins.errors import (
    DatasetMismatchError,
    FormatError,
    ImageChangedError,
    ImageReadError,
    UnknownImageError,
)
from dr_plugins.generation import Ensemble, GenerationSettings
from tests.stores import on_the_hub
from tests.timm_ext import fake_torchvision as fake
from tests.tiny import TinyTeacher, make_photographs, make_set, policy
from timm_ext import UnsupportedOptionError, create_dataset, create_loader
from timm_ext.datasets import training_dataset
from timm_ext.errors import DatasetNameError, ImagesNotFoundError, ShardsNotFoundError

# The arguments of train.py for the training split, except root and name.
TRAIN: dict[str, Any] = {"split": "train", "is_training": True, "class_map": "", "download": False}
TRAIN |= {"batch_size": 4, "repeats": 0, "input_img_mode": "RGB", "input_key": None}
TRAIN |= {"target_key": None, "num_samples": None}
SMALL = policy("rrc", size=16)


def reinforce(images: Any, out: Path, classes: int) -> Path:
    settings = GenerationSettings(SMALL, samples=2, topk=2, batch_size=16)
    teacher = Ensemble([TinyTeacher(classes)])
    # A teacher of random weights knows none of the labels.
    generation.reinforce(ImageSource(images), teacher, out, settings, min_agreement=0)
    return out


def test_imagenet_plus_reads_images_as_timm_does(data_dir: Path) -> None:
    train = create_dataset("imagenet-plus", root=str(data_dir), **TRAIN)
    plain = timm.data.dataset_factory.create_dataset("", root=str(data_dir), **TRAIN)
    assert isinstance(train, ReinforcedDataset)
    assert isinstance(train.source.dataset, ImageDataset)
    assert train.source.keys == plain.filenames()
    assert (train.p, train.densify, train.check) == (0.99, "smooth", "error")


def test_a_set_on_the_hub(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tenacity", reason="the extra `remote` is not installed")
    here = shutil.copytree(data_dir / "reinforcements" / "imagenet-plus", tmp_path / "set")
    near = create_dataset(f"imagenet-plus?p=1&shards={here}", root=str(data_dir), **TRAIN)
    with on_the_hub(monkeypatch, here) as address:
        far = create_dataset(f"imagenet-plus?p=1&shards={address}", root=str(data_dir), **TRAIN)
        views, expected = far.__getitems__(range(12)), near.__getitems__(range(12))
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(views, expected, strict=True))
        assert torch.equal(far.collate(views)[1].ids, near.collate(expected)[1].ids)


@pytest.mark.parametrize("quality", [None, 60])
def test_a_copy_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quality: int | None
) -> None:
    """In another order, under the Hub's names; with a quality, encoded again."""
    hub = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    classes = ("n01440764", "n01443537", "n01484850")
    images = make_photographs(tmp_path / "images", classes=classes)
    shards = make_set(tmp_path / "set", images, policy_=SMALL, samples=1)
    rows = []
    for path in sorted(images.rglob("*.JPEG"), key=lambda path: path.name[::-1]):
        content = io.BytesIO(path.read_bytes())
        if quality is not None:
            content = io.BytesIO()
            Image.open(path).save(content, "JPEG", quality=quality)
        image = {"bytes": content.getvalue(), "path": f"{path.stem}_{path.parent.name}.JPEG"}
        rows.append({"image": image, "label": classes.index(path.parent.name)})
    features = {"image": hub.Image(), "label": hub.ClassLabel(names=list(classes))}
    copy = hub.Dataset.from_list(rows, features=hub.Features(features))
    (tmp_path / "copy").mkdir()
    copy.to_parquet(tmp_path / "copy" / "train.parquet")

    name = f"reinforced?p=1&base=hfds/{tmp_path / 'copy'}&shards={shards}"
    far = create_dataset(name, root=str(tmp_path / "cache"), **TRAIN)
    if quality is not None:
        with pytest.raises(ImageChangedError, match="re-encoded"):
            far.__getitems__(range(12))
        return
    near = create_dataset(f"reinforced?p=1&shards={shards}", root=str(images), **TRAIN)
    order = [near.source.keys.index(key) for key in far.source.keys]
    assert order != sorted(order)
    views, expected = far.__getitems__(range(12)), near.__getitems__(order)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(views, expected, strict=True))


def test_images_of_a_list_are_left_out(
    data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = create_dataset("imagenet-plus", root=str(data_dir), **TRAIN)
    skip = tmp_path / "skip.txt"
    skip.write_text(f"{whole.source.keys[3]}\n")
    with caplog.at_level("WARNING"):
        some = create_dataset(f"imagenet-plus?skip={skip}", root=str(data_dir), **TRAIN)
    assert "not in the dataset" not in caplog.text
    assert len(some) == len(whole) - 1
    assert whole.source.keys[3] not in some.source.keys
    skip.write_text("none.JPEG\n")
    with pytest.raises(DatasetMismatchError, match=r"none\.JPEG"):
        create_dataset(f"imagenet-plus?skip={skip}", root=str(data_dir), **TRAIN)


def test_validation_is_timms_own(data_dir: Path) -> None:
    for split in ("validation", "val", "train"):
        ours = create_dataset("imagenet-plus?p=1", root=str(data_dir), split=split)
        timms = timm.data.dataset_factory.create_dataset("", root=str(data_dir), split=split)
        assert isinstance(ours, ImageDataset)
        assert ours.filenames() == timms.filenames()
        assert ours.reader.class_to_idx == timms.reader.class_to_idx
        for (image, label), (same, number) in zip(ours, timms, strict=True):
            assert (image.tobytes(), label) == (same.tobytes(), number)
        assert pickle.loads(pickle.dumps(ours))[0][1] == ours[0][1]


@pytest.mark.parametrize("base", ["", "torch/image_folder"])
@pytest.mark.parametrize("lenient", [False, True])
def test_half_a_file_is_no_validation_image(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, lenient: bool
) -> None:
    """timm takes another image instead, or, as some scripts set Pillow, a half grey one."""
    root = shutil.copytree(data_dir / "val", tmp_path / "val").parent
    file = min(root.rglob("*.JPEG"))
    file.write_bytes(file.read_bytes()[:-200])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    name = f"reinforced?base={base}" if base else "imagenet-plus"
    images = create_dataset(name, root=str(root), split="val")
    loader = create_loader(
        images, (3, 32, 32), 2, num_workers=0, use_prefetcher=False, persistent_workers=False
    )
    with pytest.raises(ImageReadError, match=file.name):
        list(loader)


def test_other_forms_of_validation_images(data_dir: Path) -> None:
    grey = create_dataset("imagenet-plus", str(data_dir), "val", input_img_mode="L")
    assert grey[0][0].mode == "L"
    content = create_dataset("imagenet-plus", str(data_dir), "val", load_bytes=True)
    assert content[0][0].startswith(b"\xff\xd8")


def test_validation_needs_no_shards(data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "val", tmp_path / "val")
    assert len(create_dataset("imagenet-plus", str(tmp_path), "validation")) == 6


def test_no_reinforcements_need_no_shards(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "train").symlink_to(data_dir / "train")
    train = create_dataset("imagenet-plus?p=0", root=str(tmp_path), **TRAIN)
    assert isinstance(train, ImageDataset)
    assert training_dataset() is None  # so that labels may be mixed and smoothed


def test_options_of_the_name(data_dir: Path) -> None:
    name = "imagenet-plus?p=0.5&densify=zeros&check=off&seed=3"
    train = create_dataset(name, root=str(data_dir), seed=42, **TRAIN)
    assert (train.p, train.densify, train.check, train.seed) == (0.5, "zeros", "off", 3)


def test_seed_is_timms_unless_the_name_sets_one(data_dir: Path) -> None:
    assert create_dataset("imagenet-plus", root=str(data_dir), **TRAIN).seed == 42
    assert create_dataset("imagenet-plus", root=str(data_dir), seed=7, **TRAIN).seed == 7
    assert create_dataset("imagenet-plus?seed=0", root=str(data_dir), seed=7, **TRAIN).seed == 0


def test_other_names_go_to_timm(data_dir: Path) -> None:
    for name in ("", "imagenet"):
        dataset = create_dataset(name, root=str(data_dir), seed=1, **TRAIN)
        assert type(dataset) is ImageDataset
        assert len(dataset) == 12


def test_which_training_dataset_is_in_use(data_dir: Path) -> None:
    reinforced = create_dataset("imagenet-plus", root=str(data_dir), **TRAIN)
    assert training_dataset() is reinforced
    create_dataset("imagenet-plus", root=str(data_dir))
    assert training_dataset() is reinforced
    create_dataset("", root=str(data_dir), **TRAIN)
    assert training_dataset() is None
    reinforced = create_dataset("imagenet-plus", root=str(data_dir), **TRAIN)
    del reinforced
    assert training_dataset() is None


def test_a_loader_keeps_its_training_dataset_in_use(data_dir: Path) -> None:
    dataset = create_dataset("imagenet-plus", root=str(data_dir), **TRAIN)
    loader = create_loader(dataset, (3, 32, 32), 4, is_training=True, device=torch.device("cpu"))
    del dataset
    assert training_dataset() is loader.dataset
    del loader
    assert training_dataset() is None


def test_a_loader_of_an_earlier_dataset_changes_nothing(data_dir: Path) -> None:
    earlier = create_dataset("imagenet-plus", root=str(data_dir), **TRAIN)
    later = create_dataset("imagenet-plus", root=str(data_dir), **TRAIN)
    loader = create_loader(earlier, (3, 32, 32), 4, is_training=True, device=torch.device("cpu"))
    assert training_dataset() is later
    del later
    assert training_dataset() is None
    assert loader.dataset is not earlier


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"input_img_mode": "L"}, UnsupportedOptionError, "--in-chans"),
        ({"seed": -1}, UnsupportedOptionError, "--seed -1"),
        ({"split": "val"}, UnknownImageError, "val_n01"),
        ({"name": "imagenet-plus?shards=/nowhere"}, ShardsNotFoundError, "/nowhere"),
        ({"name": "imagenet_plus"}, DatasetNameError, "imagenet-plus"),
    ],
)
def test_refusals(data_dir: Path, change: dict[str, Any], error: type, said: str) -> None:
    call = {"name": "imagenet-plus", "root": str(data_dir), **TRAIN, **change}
    with pytest.raises(error, match=said):
        create_dataset(**call)
    assert training_dataset() is None


def test_images_without_reinforcement_are_an_error(data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir, tmp_path / "data")
    image = next((tmp_path / "data" / "train" / "n01").iterdir())
    image.rename(image.with_name("new.JPEG"))
    with pytest.raises(UnknownImageError, match=r"new\.JPEG"):
        create_dataset("imagenet-plus", root=str(tmp_path / "data"), **TRAIN)


def test_another_class_order_is_an_error(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_text("n03\nn02\nn01\n")
    call = {**TRAIN, "class_map": str(tmp_path / "map.txt")}
    with pytest.raises(DatasetMismatchError, match="classes in the same order"):
        create_dataset("imagenet-plus", root=str(data_dir), **call)
    (tmp_path / "map.txt").write_text("n01\nn02\nn03\n")
    assert len(create_dataset("imagenet-plus", root=str(data_dir), **call)) == 12


def test_damaged_set(data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "reinforcements" / "imagenet-plus", tmp_path / "set")
    (tmp_path / "set" / "manifest.json").write_text("{}")
    with pytest.raises(FormatError):
        create_dataset(f"imagenet-plus?shards={tmp_path / 'set'}", root=str(data_dir), **TRAIN)


def test_cifar100_plus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fake.make_cifar100(tmp_path / "data", monkeypatch)
    out = reinforce(vision.CIFAR100(root), root / "reinforcements" / "cifar100-plus", 3)
    train = create_dataset("cifar100-plus", root=str(root), **TRAIN)
    assert train.source.keys[:2] == ["00000", "00001"]
    assert train.shards.directory == out
    assert train[0][0].shape == (3, 16, 16)
    validation = create_dataset("cifar100-plus", root=str(root), split="validation")
    assert (validation.classes, validation.train) == (train.source.class_names, False)
    assert (len(train), len(validation)) == (9, 6)


def test_positions_of_the_other_split_are_no_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fake.make_cifar100(tmp_path / "data", monkeypatch)
    reinforce(vision.CIFAR100(root), root / "reinforcements" / "cifar100-plus", 3)
    with pytest.raises(DatasetNameError, match="--train-split train"):
        create_dataset("cifar100-plus", root=str(root), **{**TRAIN, "split": "validation"})


def test_reinforced_images_that_timm_does_not_list(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = make_photographs(tmp_path / "train")
    jpeg = min(images.rglob("*.JPEG"))
    webp = Image.open(jpeg).save(jpeg.with_suffix(".webp"), lossless=True) or jpeg.with_suffix(
        ".webp"
    )
    jpeg.unlink()
    shards = make_set(tmp_path / "reinforcements" / "imagenet-plus", images)
    assert len(create_dataset("imagenet-plus", root=str(tmp_path), **TRAIN)) == 11
    assert (
        f"1 of the set's 12 images are not in the dataset, such as '{webp.parent.name}/{webp.name}'"
        in caplog.text
    )
    caplog.clear()
    name = f"reinforced?base=torch/image_folder&shards={shards}"
    assert len(create_dataset(name, root=str(tmp_path), split="train", is_training=True)) == 12
    assert "not in the dataset" not in caplog.text


def test_flowers102_plus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fake.make_flowers102(tmp_path / "data", monkeypatch)
    out = root / "reinforcements" / "flowers102-plus"
    reinforce(vision.Flowers102(root, "train"), out, 102)
    train = create_dataset("flowers102-plus", root=str(root), **TRAIN)
    assert train.source.keys == ["image_00001.jpg", "image_00004.jpg", "image_00005.jpg"]
    assert type(train.source.dataset) is vision.Flowers102
    for split in ("validation", "test"):
        held_out = create_dataset("flowers102-plus", root=str(root), split=split)
        assert [path.name for path in held_out._image_files] == [
            "image_00003.jpg",
            "image_00006.jpg",
        ]


def test_food101_plus(tmp_path: Path) -> None:
    root = fake.make_food101(tmp_path / "data")
    reinforce(vision.Food101(root, "train"), root / "reinforcements" / "food101-plus", 2)
    train = create_dataset("food101-plus", root=str(root), **TRAIN)
    assert sorted(train.source.keys)[0] == "apple_pie/1.jpg"
    assert len(create_dataset("food101-plus", root=str(root), split="validation")) == 2


def test_any_dataset_of_timm(tmp_path: Path) -> None:
    root = fake.make_fashion_mnist(tmp_path / "data")
    out = reinforce(vision.FashionMNIST(root), tmp_path / "fashion-plus", 10)
    name = f"reinforced?base=torch/fashion_mnist&shards={out}"
    train = create_dataset(name, root=str(root), **TRAIN)
    assert type(train.source.dataset) is vision.FashionMNIST
    assert train[0][0].shape == (3, 16, 16)


def test_grey_validation_images_become_rgb_as_the_training_views(tmp_path: Path) -> None:
    root = fake.make_fashion_mnist(tmp_path / "data")
    validation = create_dataset("reinforced?base=torch/fashion_mnist", str(root), "validation")
    grey = vision.FashionMNIST(root, train=False)
    assert len(validation) == 6
    for (image, label), (expected, expected_label) in zip(validation, grey, strict=True):
        assert image.mode == "RGB"
        assert image.tobytes() == expected.convert("RGB").tobytes()
        assert label == expected_label
    validation.transform = lambda image: torch.tensor(image.size)
    assert validation[0][0].tolist() == [28, 28]


def test_an_image_folder_is_the_default_base(data_dir: Path) -> None:
    shards = data_dir / "reinforcements" / "imagenet-plus"
    plain = create_dataset(f"reinforced?shards={shards}", root=str(data_dir), **TRAIN)
    folder = create_dataset(
        f"reinforced?base=torch/image_folder&shards={shards}", root=str(data_dir), **TRAIN
    )
    assert type(plain.source.dataset) is ImageDataset
    assert type(folder.source.dataset) is vision.ImageFolder
    assert sorted(plain.source.keys) == sorted(folder.source.keys)
    assert plain.source.keys != folder.source.keys  # `_2` and `_10` sort differently
    for key in plain.source.keys:
        one = plain[plain.source.keys.index(key)]
        other = folder[folder.source.keys.index(key)]
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1].ids, other[1].ids)


def test_images_named_as_for_commands(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("DR_PLUGINS_CACHE", str(tmp_path / "cache"))
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as archive:
            for path in sorted((data_dir / split).rglob("*.JPEG")):
                archive.add(path, path.relative_to(data_dir / split))
    shards, images = data_dir / "reinforcements" / "imagenet-plus", f"tar:{tmp_path}/train.tar"
    name = f"imagenet-plus?shards={shards}&images={images}&p=1"
    folder = create_dataset("imagenet-plus?p=1", root=str(data_dir), **TRAIN)
    train = create_dataset(name, **TRAIN)
    assert sorted(train.source.keys) == sorted(folder.source.keys)
    for key in train.source.keys:
        one, other = (each[each.source.keys.index(key)] for each in (train, folder))
        assert torch.equal(one[0], other[0])
    named = create_dataset(f"{name}&validation=tar:{tmp_path}/val.tar", split="validation")
    loader = create_loader(named, 16, 6, is_training=False, use_prefetcher=False)
    assert next(iter(loader))[1].tolist() == [0, 0, 1, 1, 2, 2]
    assert "validation uses training images" not in caplog.text
    assert len(create_dataset(name, root=str(data_dir), split="validation")) == 6
    with pytest.raises(ImagesNotFoundError, match="validation=IMAGES"):
        create_dataset(name, split="validation")
    create_dataset(f"{name}&validation={images}", split="validation")
    assert "validation uses training images: 12 of the 12" in caplog.text
    with pytest.raises(DatasetMismatchError, match=r"none\.tar"):
        create_dataset(f"imagenet-plus?shards={shards}&images=tar:none.tar", **TRAIN)


def test_streams_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            raise NotImplementedError

    def create(name: str, **kwargs: Any) -> Stream:
        return Stream()

    monkeypatch.setattr("timm_ext.datasets.timm_create_dataset", create)
    with pytest.raises(DatasetNameError, match="wds/x is a stream"):
        create_dataset("reinforced?base=wds/x", is_training=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cifar100-plus", "--dataset-download"),
        ("flowers102-plus", "--dataset-download"),
        ("food101-plus", "--dataset-download"),
        ("reinforced?base=torch/fashion_mnist", "--dataset-download"),
        ("imagenet-plus", "the folders of the splits or of the classes"),
    ],
)
def test_images_that_are_not_there(tmp_path: Path, name: str, said: str) -> None:
    for root in (tmp_path, tmp_path / "nowhere", None):
        for options in (TRAIN, {"split": "validation"}):
            with pytest.raises(ImagesNotFoundError) as error:
                create_dataset(name, root=root and str(root), **options)
            assert said in str(error.value)
            assert str(root) in str(error.value)
