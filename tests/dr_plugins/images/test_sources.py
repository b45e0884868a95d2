"""Datasets of other libraries as sources: keys, pixels, labels, and what is refused."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch.utils.data import ConcatDataset, Subset
from torchvision import datasets, transforms
from torchvision.datasets import ImageFolder

from dr_plugins.errors import DatasetMismatchError, ImageReadError
from dr_plugins.images.sources import ImageSource, image_keys
from dr_plugins.training.dataset import ReinforcedDataset
from tests.tiny import CLASSES, make_photographs, photograph

KEYS = [f"{c}/{c}_{i}.JPEG" for c in CLASSES for i in (2, 4, 9, 11)]


def timm_dataset(root: Path | str, **options: Any) -> Any:
    data = pytest.importorskip("timm.data")
    return data.ImageDataset(str(root), **options)


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


def by_key(source: ImageSource) -> dict[str, tuple[bytes, int]]:
    loaded = (source.load(i) for i in range(len(source)))
    return {
        key: (pixels(image).tobytes(), label)
        for key, (image, label) in zip(source.keys, loaded, strict=True)
    }


# --- folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["", "/", "/../train"])
def test_keys_of_a_folder(photographs: Path, ending: str) -> None:
    source = ImageSource(ImageFolder(f"{photographs}{ending}"))
    assert sorted(source.keys) == sorted(KEYS)
    assert source.class_names == list(CLASSES)
    image, label = source.load(source.keys.index("n02/n02_9.JPEG"))
    with Image.open(photographs / "n02" / "n02_9.JPEG") as expected:
        assert np.array_equal(pixels(image), np.asarray(expected))
    assert label == 1


@pytest.mark.parametrize("kind", [ImageFolder, timm_dataset])
def test_arrays_and_images_have_the_same_pixels(photographs: Path, kind: Any) -> None:
    source = ImageSource(Subset(kind(str(photographs)), list(range(11, -1, -1))))
    for index in range(len(source)):
        image, label = source.load(index)
        array, other_label = source.load_picture(index)
        assert isinstance(array, np.ndarray)
        assert np.array_equal(array, pixels(image))
        assert label == other_label
        assert isinstance(source.load_picture(index, as_pixels=False)[0], Image.Image)


def test_the_same_for_what_is_no_jpeg_file(tmp_path: Path, photographs: Path) -> None:
    (tmp_path / "n01").mkdir()
    photograph(0, 40, 50).save(tmp_path / "n01" / "a.png")
    png, own_loader = ImageFolder(str(tmp_path)), ImageFolder(str(photographs), loader=Image.open)
    for images in (png, own_loader, datasets.FakeData(2)):
        source = ImageSource(images, keys=[str(i) for i in range(len(images))])
        whole = source.load(0)[0]
        for as_pixels, form in ((True, np.ndarray), (False, Image.Image)):
            image, _ = source.load_picture(0, as_pixels=as_pixels)
            assert isinstance(image, form)
            assert np.array_equal(np.asarray(image), pixels(whole))


def _open_and_convert(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


@pytest.mark.parametrize("loader", [Image.open, _open_and_convert])
@pytest.mark.parametrize("as_pixels", [False, True])
def test_half_a_file_is_refused_whoever_decodes_it(
    tmp_path: Path, photographs: Path, loader: Any, as_pixels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    (tmp_path / "n01").mkdir()
    data = (photographs / KEYS[0]).read_bytes()
    (tmp_path / "n01" / "half.jpg").write_bytes(data[: len(data) // 2])
    source = ImageSource(ImageFolder(str(tmp_path), loader=loader))
    with pytest.raises(ImageReadError, match=r"n01/half\.jpg"):
        source.load_picture(0, as_pixels=as_pixels)
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_keys_of_a_folder_named_by_a_relative_path(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photographs)
    for root in (".", "./", "../train", Path()):
        assert sorted(image_keys(ImageFolder(root))) == sorted(KEYS)


def test_keys_of_nested_folders_and_links(tmp_path: Path, photographs: Path) -> None:
    (tmp_path / "a" / "deep" / "er").mkdir(parents=True)
    photograph(0, 5, 5).save(tmp_path / "a" / "deep" / "er" / "x y ü.png")
    (tmp_path / "b").symlink_to(photographs / "n01")
    keys = image_keys(ImageFolder(str(tmp_path)))
    assert keys == ["a/deep/er/x y ü.png", *(f"b/n01_{i}.JPEG" for i in (11, 2, 4, 9))]


def test_keys_of_timms_folder(photographs: Path) -> None:
    source = ImageSource(timm_dataset(photographs))
    assert source.keys == KEYS, "timm sorts by number"
    assert source.class_names == list(CLASSES)
    assert by_key(source) == by_key(ImageSource(ImageFolder(str(photographs))))


@pytest.mark.parametrize("prefix", ["", "./"])
def test_keys_of_timms_archive(tmp_path: Path, photographs: Path, prefix: str) -> None:
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for name in CLASSES:
            tar.add(photographs / name, f"{prefix}{name}")
    source = ImageSource(timm_dataset(tmp_path / "train.tar"))
    assert source.class_names == list(CLASSES)
    assert by_key(source) == by_key(ImageSource(ImageFolder(str(photographs))))


def test_both_orders_give_the_same_samples(photographs: Path, shard_sets: Any) -> None:
    directory = shard_sets("randaug_mixing", "tensor")
    a = ReinforcedDataset(ImageFolder(str(photographs)), directory, p=0.7, seed=4)
    b = ReinforcedDataset(timm_dataset(photographs), directory, p=0.7, seed=4)
    for epoch in (0, 5, 17):
        a.set_epoch(epoch)
        b.set_epoch(epoch)
        mine = dict(zip(a.source.keys, a.__getitems__(range(len(a))), strict=True))
        theirs = dict(zip(b.source.keys, b.__getitems__(range(len(b))), strict=True))
        assert mine.keys() == theirs.keys()
        for key, (view, target) in mine.items():
            assert torch.equal(view, theirs[key][0])
            assert torch.equal(target.ids, theirs[key][1].ids)
            assert torch.equal(target.probs, theirs[key][1].probs)
            assert target.labels == theirs[key][1].labels


# --- what is not readable -------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "missing"])
@pytest.mark.parametrize("kind", ["torchvision", "timm", "concatenation"])
def test_no_neighbour_takes_the_place_of_an_unreadable_image(
    tmp_path: Path, kind: str, damage: str
) -> None:
    root = make_photographs(tmp_path / "train", per_class=2)
    images = ImageFolder(str(root)) if kind == "torchvision" else timm_dataset(root)
    source = ImageSource(images)
    if kind == "concatenation":
        part = Subset(images, range(2, 6))
        source = ImageSource(ConcatDataset([images, part]), source.keys + image_keys(part))
        assert [source.load(i)[1] for i in (1, 5, 6, -1)] == [0, 2, 1, 2]
    index = source.keys.index("n02/n02_2.JPEG")
    path = root / source.keys[index]
    if damage == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(
            {"truncated": content[: len(content) // 2], "empty": b"", "text": b"x" * 99}[damage]
        )
    with pytest.raises(ImageReadError, match=r"cannot read image 'n02/n02_2\.JPEG'"):
        source.load(index)
    if kind == "timm" and damage == "empty":
        images[index]  # timm itself answers with the next image, and a log message


# --- subsets and others ---------------------------------------------------------------------------


def test_subsets(photographs: Path) -> None:
    whole = ImageFolder(str(photographs))
    keys = image_keys(whole)
    nested = Subset(Subset(whole, [9, 1, 3, 1]), [2, 0, 1, 3])
    source = ImageSource(nested)
    assert source.keys == [keys[i] for i in (3, 9, 1, 1)]
    assert source.class_names == list(CLASSES)
    full = by_key(ImageSource(whole))
    for i, key in enumerate(source.keys):
        image, label = source.load(i)
        assert (pixels(image).tobytes(), label) == full[key]


def test_classes_of_a_concatenation(photographs: Path, tmp_path: Path) -> None:
    whole = ImageFolder(str(photographs))
    keys = [str(i) for i in range(20)]
    alike: Any = ConcatDataset([whole, Subset(whole, [1, 2])])
    assert ImageSource(alike, keys[:14]).class_names == list(CLASSES)
    make_photographs(tmp_path / "part", classes=CLASSES[1:])
    other: Any = ConcatDataset([whole, ImageFolder(str(tmp_path / "part"))])
    with pytest.raises(DatasetMismatchError, match=r"part 2 .* 2 classes, part 1 3; .*n02.*n01"):
        _ = ImageSource(other, keys).class_names
    other.datasets[1].target_transform = lambda label: label + 1
    source = ImageSource(other, keys)
    assert (source.class_names, source.load(12)[1]) == (None, 1)


def test_a_dataset_of_ones_own() -> None:
    pairs = [(photograph(i, 9, 8), i) for i in range(3)]
    source = ImageSource(pairs, keys=["x/1", "x/2", "x/3"])
    assert source.class_names is None
    image, label = source.load(2)
    assert np.array_equal(pixels(image), pixels(pairs[2][0]))
    assert label == 2
    greys = [(image.convert("L"), None) for image, _ in pairs]
    image, label = ImageSource(greys, keys=["a", "b", "c"]).load(1)
    assert (image.mode, label) == ("RGB", -1)


@pytest.mark.parametrize("cls", ["FakeData", "Concat", "Arrays"])
def test_keys_that_cannot_be_derived(photographs: Path, cls: str) -> None:
    class Arrays:
        """Looks like CIFAR, but nothing says that its order is fixed."""

        data, targets = (photograph(0, 8, 8),), (0,)

        def __len__(self) -> int:
            return 1

    dataset: Any = {
        "FakeData": lambda: datasets.FakeData(3),
        "Concat": lambda: ConcatDataset([ImageFolder(str(photographs))] * 2),
        "Arrays": Arrays,
    }[cls]()
    with pytest.raises(DatasetMismatchError, match=r"cannot derive image keys .*pass `keys`"):
        ImageSource(dataset)


def test_one_key_for_each_image(photographs: Path) -> None:
    with pytest.raises(DatasetMismatchError, match="2 keys for a dataset of 12 images"):
        ImageSource(ImageFolder(str(photographs)), keys=["a", "b"])


@pytest.mark.parametrize("kind", ["torchvision", "timm", "subset", "concatenation", "joint"])
def test_a_transform_is_refused_with_its_remedy(photographs: Path, kind: str) -> None:
    if kind == "timm":
        dataset = timm_dataset(photographs, transform=transforms.ToTensor())
    else:
        dataset = ImageFolder(str(photographs), transform=transforms.ToTensor())
    if kind == "subset":
        dataset = Subset(Subset(dataset, [1, 2]), [0])
    if kind == "concatenation":
        dataset = ConcatDataset([ImageFolder(str(photographs)), Subset(dataset, [0])])
    if kind == "joint":  # as `transforms` of torchvision's OxfordIIITPet
        dataset = datasets.VisionDataset(str(photographs), transforms=lambda *pair: pair)
    with pytest.raises(DatasetMismatchError, match=r"has a transform.*ReinforcedDataset"):
        ImageSource(dataset)


def test_a_dataset_that_gives_tensors() -> None:
    source = ImageSource([(torch.zeros(3, 8, 8), 0)], keys=["a"])
    with pytest.raises(DatasetMismatchError, match=r"Tensor for image 'a'.*PIL image"):
        source.load(0)


@pytest.mark.parametrize("kind", ["torchvision", "timm"])
def test_target_transforms_are_kept(photographs: Path, kind: str) -> None:
    def shifted(label: int) -> int:
        return (label + 1) % 3

    if kind == "timm":
        dataset = timm_dataset(photographs, target_transform=shifted)
    else:
        dataset = ImageFolder(str(photographs), target_transform=shifted)
    source = ImageSource(dataset)
    assert source.load(source.keys.index("n01/n01_2.JPEG"))[1] == 1
    assert source.load(source.keys.index("n03/n03_2.JPEG"))[1] == 0
    assert all(source.load(i)[1] == dataset[i][1] for i in range(len(source)))
    assert source.class_names is None, "the folders' names are in another order"


def test_a_project_that_calls_its_package_datasets(photographs: Path) -> None:
    mine = type("Mine", (ImageFolder,), {"__module__": "datasets.mine"})(str(photographs))
    assert ImageSource(mine).keys == ImageSource(ImageFolder(str(photographs))).keys


def test_a_loader_of_ones_own_is_used(photographs: Path) -> None:
    dataset = ImageFolder(str(photographs), loader=lambda path: Image.new("L", (4, 4), 7))
    assert (pixels(ImageSource(dataset).load(0)[0]) == 7).all()


class FlippingSubset(Subset):  # type: ignore[type-arg]
    """Does more than choose, in a place that the dataset below knows nothing of."""

    transform: Any = None

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), label

    def __getitems__(self, indices: list[int]) -> Any:
        return [self[i] for i in indices]


class OtherLabels(ImageFolder):
    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)[0], 2


def test_what_a_subclass_does_is_not_bypassed(photographs: Path) -> None:
    folder = ImageFolder(str(photographs))
    subset = FlippingSubset(folder, [3, 1])
    source = ImageSource(subset)
    assert source.keys == [image_keys(folder)[3], image_keys(folder)[1]]
    assert np.array_equal(np.asarray(source.load(0)[0]), np.asarray(folder[3][0])[:, ::-1])
    assert ImageSource(OtherLabels(str(photographs))).load(0)[1] == 2


def test_a_transform_at_any_level_is_refused(photographs: Path) -> None:
    subset = FlippingSubset(ImageFolder(str(photographs)), [3, 1])
    subset.transform = lambda image: image
    with pytest.raises(DatasetMismatchError, match="FlippingSubset has a transform"):
        ImageSource(Subset(subset, [0]))
