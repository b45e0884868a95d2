"""torchvision's datasets: which split is which, and how their images are named."""

from __future__ import annotations

import inspect
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.datasets import ImageFolder, cifar, flowers102

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.images.sources import ImageSource, image_keys, open_source
from tests.dr_plugins.images.test_folders import images
from tests.dr_plugins.images.test_sources import by_key, pixels
from tests.tiny import CLASSES, make_photographs, photograph

# --- all of them ----------------------------------------------------------------------------------


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def caltech101(root: Path) -> None:
    folder = root / "caltech101" / "101_ObjectCategories"
    images(folder, "ant/image_0001.jpg", "bee/image_0001.jpg", "BACKGROUND_Google/image_0001.jpg")


def caltech256(root: Path) -> None:
    folder = root / "caltech256" / "256_ObjectCategories"
    images(folder, "001.ak47/001_0001.jpg", "002.flag/002_0001.jpg")


def country211(root: Path) -> None:
    images(
        root / "country211", "train/AT/1.jpg", "train/DE/2.jpg", "test/AT/3.jpg", "test/DE/4.jpg"
    )


def dtd(root: Path) -> None:
    images(root / "dtd/dtd/images", "dots/1.jpg", "wool/2.jpg", "dots/3.jpg", "wool/4.jpg")
    for split, *lines in (
        ("train", "dots/1.jpg", "wool/2.jpg"),
        ("test", "dots/3.jpg", "wool/4.jpg"),
    ):
        text(root / f"dtd/dtd/labels/{split}1.txt", *lines)


def eurosat(root: Path) -> None:
    images(root / "eurosat/2750", "Forest/1.jpg", "River/2.jpg")


def fgvc_aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    images(data / "images", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg")
    text(data / "variants.txt", "707", "A380")
    text(data / "images_variant_train.txt", "1 707", "2 A380")
    text(data / "images_variant_trainval.txt", "1 707", "2 A380", "5 707")
    text(data / "images_variant_test.txt", "3 707", "4 A380")


def gtsrb(root: Path) -> None:
    images(root / "gtsrb/GTSRB/Training", "00000/1.ppm", "00001/2.ppm")
    images(root / "gtsrb/GTSRB/Final_Test/Images", "3.ppm", "4.ppm")
    text(root / "gtsrb/GT-final_test.csv", "Filename;ClassId", "3.ppm;0", "4.ppm;1")


def imagenette(root: Path) -> None:
    folder = root / "imagenette2"
    for split, numbers in (("train", (1, 2)), ("val", (3, 4))):
        fish, dog = numbers
        images(folder / split, f"n01440764/{fish}.JPEG", f"n02102040/{dog}.JPEG")


def inaturalist(root: Path) -> None:
    first, second = (f"0000{n}_K_P_C_O_F_G_s{n}" for n in (0, 1))
    images(root / "2021_train", f"{first}/1.jpg", f"{second}/2.jpg")
    images(root / "2021_valid", f"{first}/3.jpg", f"{second}/4.jpg")


def oxford_iiit_pet(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    images(folder / "images", "Cat_1.jpg", "dog_2.jpg", "Cat_3.jpg", "dog_4.jpg")
    text(folder / "annotations" / "trainval.txt", "Cat_1 1 1 1", "dog_2 2 2 1")
    text(folder / "annotations" / "test.txt", "Cat_3 1 1 1", "dog_4 2 2 1")


def rendered_sst2(root: Path) -> None:
    for split, (bad, good) in (("train", (1, 2)), ("test", (3, 4)), ("valid", (5, 6))):
        images(root / "rendered-sst2" / split, f"negative/{bad}.png", f"positive/{good}.png")


def stanford_cars(root: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    folder = root / "stanford_cars"
    images(folder, "cars_train/1.jpg", "cars_train/2.jpg", "cars_test/3.jpg", "cars_test/4.jpg")
    (folder / "devkit").mkdir()
    kinds = [("fname", object), ("class", np.uint8)]
    for path, a, b in (
        ("devkit/cars_train_annos.mat", "1.jpg", "2.jpg"),
        ("cars_test_annos_withlabels.mat", "3.jpg", "4.jpg"),
    ):
        savemat(folder / path, {"annotations": np.array([(a, 1), (b, 2)], kinds)})
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array(["Audi", "BMW"], object)})


def sun397(root: Path) -> None:
    folder = root / "SUN397"
    images(folder, "a/abbey/sun_1.jpg", "z/zoo/inside/sun_2.jpg")
    text(folder / "ClassName.txt", "/a/abbey", "/z/zoo/inside")


Layout = Callable[[Path], None]
LAYOUTS: dict[str, tuple[Layout, list[str], list[str] | None]] = {
    "Caltech101": (caltech101, ["ant/image_0001.jpg", "bee/image_0001.jpg"], None),
    "Caltech256": (caltech256, ["001.ak47/001_0001.jpg", "002.flag/002_0001.jpg"], None),
    "Country211": (country211, ["AT/1.jpg", "DE/2.jpg"], ["AT/3.jpg", "DE/4.jpg"]),
    "DTD": (dtd, ["dots/1.jpg", "wool/2.jpg"], ["dots/3.jpg", "wool/4.jpg"]),
    "EuroSAT": (eurosat, ["Forest/1.jpg", "River/2.jpg"], None),
    "FGVCAircraft": (fgvc_aircraft, ["1.jpg", "2.jpg"], ["3.jpg", "4.jpg"]),
    "GTSRB": (gtsrb, ["00000/1.ppm", "00001/2.ppm"], ["3.ppm", "4.ppm"]),
    "Imagenette": (
        imagenette,
        ["n01440764/1.JPEG", "n02102040/2.JPEG"],
        ["n01440764/3.JPEG", "n02102040/4.JPEG"],
    ),
    "INaturalist": (
        inaturalist,
        ["00000_K_P_C_O_F_G_s0/1.jpg", "00001_K_P_C_O_F_G_s1/2.jpg"],
        ["00000_K_P_C_O_F_G_s0/3.jpg", "00001_K_P_C_O_F_G_s1/4.jpg"],
    ),
    "OxfordIIITPet": (oxford_iiit_pet, ["Cat_1.jpg", "dog_2.jpg"], ["Cat_3.jpg", "dog_4.jpg"]),
    "RenderedSST2": (
        rendered_sst2,
        ["negative/1.png", "positive/2.png"],
        ["negative/3.png", "positive/4.png"],
    ),
    "StanfordCars": (stanford_cars, ["1.jpg", "2.jpg"], ["3.jpg", "4.jpg"]),
    "SUN397": (sun397, ["a/abbey/sun_1.jpg", "z/zoo/inside/sun_2.jpg"], None),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_are_named_by_their_path(name: str, tmp_path: Path) -> None:
    layout, train, validation = LAYOUTS[name]
    layout(tmp_path)
    source = open_source(f"torchvision:{name}:{tmp_path}")
    loaded = {key: label for key, (_, label) in by_key(source).items()}
    assert loaded == dict(zip(train, (0, 1), strict=True))
    if source.class_names is not None:
        assert len(source.class_names) >= 2
    if validation is not None:
        other = open_source(f"torchvision:{name}:{tmp_path}", train=False)
        assert sorted(other.keys) == validation
    else:
        with pytest.raises(DatasetMismatchError, match="no validation split"):
            open_source(f"torchvision:{name}:{tmp_path}", train=False)


@pytest.mark.parametrize(
    ("name", "train", "validation"),
    [
        ("CIFAR100", {"train": True}, {"train": False}),
        ("CLEVRClassification", {"split": "train"}, {"split": "val"}),
        ("FGVCAircraft", {"split": "train"}, {"split": "test"}),
        ("Flowers102", {"split": "train"}, {"split": "test"}),
        ("ImageNet", {"split": "train"}, {"split": "val"}),
        ("Places365", {"split": "train-standard"}, {"split": "val"}),
        ("STL10", {"split": "train"}, {"split": "test"}),
    ],
)
def test_splits(
    name: str, train: Any, validation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each split is asked for by its name, never left to torchvision's default."""
    asked: list[Any] = []
    kind = getattr(datasets, name)

    class Fake(kind):  # type: ignore[misc, valid-type]
        def __new__(cls, root: str, **options: Any) -> Any:
            asked.append(options)
            return datasets.MNIST.__new__(datasets.FakeData)

    Fake.__signature__ = inspect.signature(kind)  # type: ignore[attr-defined]
    monkeypatch.setattr(datasets, name, Fake)
    for is_training in (True, False):
        with pytest.raises(DatasetMismatchError):  # what was opened is none of these
            open_source(f"torchvision:{name}:{tmp_path}", train=is_training)
    assert asked == [train, validation]


def test_svhn_and_stl10_are_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    for kind in (datasets.SVHN, datasets.STL10):
        monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
    rng = np.random.default_rng(0)
    content = {"X": rng.integers(0, 256, (32, 32, 3, 2), np.uint8), "y": np.array([[10], [3]])}
    savemat(tmp_path / "train_32x32.mat", content)
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    rng.integers(0, 256, 2 * 3 * 96 * 96, np.uint8).tofile(folder / "train_X.bin")
    np.array([1, 10], np.uint8).tofile(folder / "train_y.bin")
    text(folder / "class_names.txt", *"abcdefghij")
    for name, labels in (("SVHN", [0, 3]), ("STL10", [0, 9])):
        source = open_source(f"torchvision:{name}:{tmp_path}")
        assert source.keys == ["00000", "00001"]
        assert [source.load(i)[1] for i in (0, 1)] == labels


# --- some of them, in full -----------------------------------------------------------------------


def make_cifar(root: Path, kind: type[cifar.CIFAR10], label_key: str) -> np.ndarray:
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    parts = []
    for name, _ in (*kind.train_list, *kind.test_list):
        data = rng.integers(0, 256, (3, 3072), np.uint8)
        parts.append(data)
        content = {"data": data, label_key: [len(parts) % 7, 1, 2]}
        (folder / name).write_bytes(pickle.dumps(content))
    names = {kind.meta["key"]: [f"class {i}" for i in range(7)]}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(names))
    return np.concatenate(parts[: len(kind.train_list)])


@pytest.mark.parametrize(
    ("kind", "label_key"), [(datasets.CIFAR10, "labels"), (datasets.CIFAR100, "fine_labels")]
)
def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, label_key: str) -> None:
    monkeypatch.setattr(cifar, "check_integrity", lambda *args: True)
    data = make_cifar(tmp_path, kind, label_key)
    source = ImageSource(kind(str(tmp_path)))
    assert source.keys == [f"{i:05d}" for i in range(len(data))]
    assert source.class_names == [f"class {i}" for i in range(7)]
    image, label = source.load(1)
    assert np.array_equal(pixels(image), data[1].reshape(3, 32, 32).transpose(1, 2, 0))
    assert label == 1
    opened = open_source(f"torchvision:{kind.__name__}:{tmp_path}")
    assert by_key(opened) == by_key(source)
    text(tmp_path / "classes.txt", *reversed(source.class_names))
    with pytest.raises(DatasetMismatchError, match="no effect"):
        open_source(f"torchvision:{kind.__name__}:{tmp_path}", tmp_path / "classes.txt")


def test_fashion_mnist(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    for name in ("train", "t10k"):
        header = struct.pack(">4i", 0x0803, *images.shape)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = bytes([3, 1, 4, 1, 5])
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x0801, 5) + labels)
    source = open_source(f"torchvision:FashionMNIST:{tmp_path}")
    assert source.keys == ["00000", "00001", "00002", "00003", "00004"]
    assert source.class_names is not None
    assert source.class_names[9] == "Ankle boot"
    image, label = source.load(2)
    assert np.array_equal(pixels(image), np.stack([images[2]] * 3, -1))
    assert label == 4


def test_flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    monkeypatch.setattr(flowers102, "check_integrity", lambda *args: True)
    folder = tmp_path / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for i in range(1, 6):
        photograph(i, 20, 30).save(folder / "jpg" / f"image_{i:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.array([[7, 8, 9, 10, 102]])})
    savemat(folder / "setid.mat", {"trnid": [[5, 2]], "valid": [[1, 3]], "tstid": [[3, 4]]})
    source = open_source(f"torchvision:Flowers102:{tmp_path}")
    assert source.keys == ["image_00005.jpg", "image_00002.jpg"]
    assert [source.load(i)[1] for i in (0, 1)] == [101, 7]
    with Image.open(folder / "jpg" / "image_00002.jpg") as expected:
        assert np.array_equal(pixels(source.load(1)[0]), np.asarray(expected))
    # Another split of the same folder has other keys, not other names for these.
    assert image_keys(datasets.Flowers102(str(tmp_path), "val")) == [
        "image_00001.jpg",
        "image_00003.jpg",
    ]


def test_food(tmp_path: Path) -> None:
    folder = tmp_path / "food-101"
    train = {"pizza": ["pizza/12", "pizza/3"], "apple_pie": ["apple_pie/5"]}
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "train.json").write_text(json.dumps(train))
    (folder / "meta" / "test.json").write_text(json.dumps({"pizza": ["pizza/4"], "apple_pie": []}))
    for name in ("pizza/12", "pizza/3", "apple_pie/5", "pizza/4"):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        photograph(len(name), 20, 30).save(folder / "images" / f"{name}.jpg")
    source = open_source(f"torchvision:Food101:{tmp_path}")
    assert source.keys == ["pizza/12.jpg", "pizza/3.jpg", "apple_pie/5.jpg"]
    assert source.class_names == ["apple_pie", "pizza"]
    assert [source.load(i)[1] for i in range(3)] == [1, 1, 0]
    # Keys do not depend on which images are listed beside them.
    assert image_keys(datasets.Food101(str(tmp_path), "test")) == ["pizza/4.jpg"]


def test_imagenet_is_the_folder_of_its_images(tmp_path: Path) -> None:
    make_photographs(tmp_path / "train", per_class=2)
    words = {name: (f"the {name}", f"a {name}") for name in CLASSES}
    torch.save((words, []), tmp_path / "meta.bin")
    source = ImageSource(datasets.ImageNet(str(tmp_path)))
    assert by_key(source) == by_key(ImageSource(ImageFolder(str(tmp_path / "train"))))
    assert source.class_names == list(CLASSES)
