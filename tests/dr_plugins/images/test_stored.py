"""The same images in every container: same keys, same pixels, same labels."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from dr_plugins import ReinforcedDataset
from dr_plugins.errors import DatasetMismatchError, ImageReadError
from dr_plugins.images.archives import TarImages
from dr_plugins.images.keys import imagenet_key
from dr_plugins.images.sources import ImageSource, open_source
from dr_plugins.tools.verify import verify
from tests import tiny

WNIDS = ("n01440764", "n01443537", "n02085620")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DR_PLUGINS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet's layout, and a shard set of it."""
    root = tmp_path_factory.mktemp("stored")
    tiny.make_photographs(root / "train", per_class=3, classes=WNIDS)
    tiny.make_set(root / "set", root / "train")
    return root


def files(root: Path) -> list[tuple[str, str, bytes]]:
    """(class, file name, content) of all images."""
    paths = sorted((root / "train").rglob("*.JPEG"))
    return [(path.parent.name, path.name, path.read_bytes()) for path in paths]


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def published(root: Path, out: Path) -> str:
    """ILSVRC2012_img_train.tar: an archive for each class."""
    inner = []
    for wnid in WNIDS:
        of_class = [(name, data) for c, name, data in files(root) if c == wnid]
        inner.append((f"{wnid}.tar", write_tar(out / f"{wnid}.x", of_class).read_bytes()))
    return f"tar:{write_tar(out / 'train.tar', inner)}"


def folders(root: Path, out: Path) -> str:
    members = [(f"./train/{c}/{name}", data) for c, name, data in files(root)]
    return f"tar:{write_tar(out / 'folders.tar', members)}"


def webdataset(root: Path, out: Path) -> str:
    everything = files(root)
    for part in range(2):
        members = []
        for c, name, data in everything[part::2]:
            stem = name.removesuffix(".JPEG")
            label = WNIDS.index(c)
            members += [
                (f"{stem}.jpg", data),
                (f"{stem}.json", json.dumps({"label": label}).encode()),
            ]
        write_tar(out / f"part-{part}.tar", members)
    return f"tar:{out}/part-*.tar"


def list_file(root: Path, out: Path) -> str:
    lines = [f"{root}/train/{c}/{name} {WNIDS.index(c)}" for c, name, _ in files(root)]
    (out / "list.txt").write_text("\n".join(lines))
    return f"list:{out / 'list.txt'}"


def hub_rows(root: Path) -> Any:
    """As on the Hub: in another order, with the class at the end of each name."""
    datasets = pytest.importorskip("datasets")
    everything = files(root)[::-1]
    names = [f"{name.removesuffix('.JPEG')}_{c}.JPEG" for c, name, _ in everything]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(WNIDS))}
    )
    images = [{"bytes": e[2], "path": name} for e, name in zip(everything, names, strict=True)]
    labels = [WNIDS.index(c) for c, _, _ in everything]
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features)


def raw() -> Any:
    return pytest.importorskip("datasets").Image(decode=False)


def hub(root: Path, out: Path) -> str:
    hub_rows(root).save_to_disk(str(out / "saved"))
    return f"hf:{out / 'saved'}"


CONTAINERS = [published, folders, webdataset, list_file, hub]


@pytest.mark.parametrize("container", CONTAINERS)
def test_one_set_fits_every_copy(
    root: Path, tmp_path: Path, container: Callable[[Path, Path], str]
) -> None:
    source = open_source(container(root, tmp_path), keys="imagenet")
    plain = open_source(str(root / "train"))
    assert sorted(source.keys) == sorted(plain.keys)
    position = {key: i for i, key in enumerate(plain.keys)}
    for index, key in enumerate(source.keys):
        (image, label), (wanted, expected) = source.load(index), plain.load(position[key])
        assert np.array_equal(image, wanted)
        assert label == expected
    assert source.class_names in (None, list(WNIDS))
    named = open_source(container(root, tmp_path))  # the set's keys show the rule to use
    assert verify(root / "set", named, replay=9).problems == []
    assert verify(root / "set", source, replay=9).replayed == 9


def test_a_hub_data_set_trains(root: Path) -> None:
    rows = hub_rows(root)
    train = ReinforcedDataset(rows, root / "set", p=1)
    folder = ReinforcedDataset(ImageFolder(str(root / "train")), root / "set", p=1)
    position = {key: i for i, key in enumerate(folder.source.keys)}
    for index, key in enumerate(train.source.keys):
        assert (train[index][0] == folder[position[key]][0]).all()
    part = ImageSource(rows.shuffle(seed=0).select(range(4)), keys="imagenet")
    assert set(part.keys) < set(train.source.keys)
    for index, key in enumerate(part.keys):
        assert np.array_equal(part.load(index)[0], folder.source.load(position[key])[0])


def test_a_hub_data_set_with_a_transform_or_without_names(root: Path) -> None:
    rows = hub_rows(root)
    with pytest.raises(DatasetMismatchError, match=r"has a transform.*ReinforcedDataset"):
        ImageSource(rows.with_transform(lambda batch: batch))
    keys = ImageSource(rows).keys
    unnamed = [{**image, "path": None} for image in rows.cast_column("image", raw())["image"]]
    rows = rows.from_dict({**rows.to_dict(), "image": unnamed}, rows.features)
    with pytest.raises(ValueError, match="no names; pass keys"):
        ImageSource(rows)
    assert ImageSource(rows, keys).load(1)[0].size == ImageSource(hub_rows(root)).load(1)[0].size


def test_a_class_map_names_the_classes_of_the_hub(root: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    described = datasets.ClassLabel(names=["tench", "goldfish", "Chihuahua"])
    hub_rows(root).cast_column("label", described).save_to_disk(str(tmp_path / "saved"))
    spec, names = f"hf:{tmp_path / 'saved'}", tmp_path / "classes.txt"
    with pytest.raises(DatasetMismatchError, match="tench"):
        ReinforcedDataset(open_source(spec), root / "set")
    names.write_text("\n".join(WNIDS))
    train = ReinforcedDataset(open_source(spec, names), root / "set", p=1)
    assert (train.source.class_names, len([train[i] for i in range(9)])) == (list(WNIDS), 9)
    for content in ("tench\nChihuahua\ngoldfish", "tench\ngoldfish"):
        names.write_text(content)
        with pytest.raises(DatasetMismatchError, match="class map lists"):
            open_source(spec, names)


def test_a_class_map_names_the_classes_of_a_list(root: Path, tmp_path: Path) -> None:
    spec, names = list_file(root, tmp_path), tmp_path / "classes.txt"
    names.write_text("\n".join(WNIDS))
    assert open_source(spec, names).class_names == list(WNIDS)
    names.write_text("\n".join(WNIDS[:2]))
    with pytest.raises(DatasetMismatchError, match="label 2"):
        open_source(spec, names)


def test_the_index_is_made_once(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = published(root, tmp_path)
    keys = open_source(spec).keys
    monkeypatch.setattr(tarfile, "open", None)
    assert open_source(spec).keys == keys
    monkeypatch.undo()
    monkeypatch.setenv("DR_PLUGINS_CACHE", str(tmp_path / "cache"))
    folders(root, tmp_path).removeprefix("tar:")
    (tmp_path / "folders.tar").replace(tmp_path / "train.tar")  # another archive of that name
    assert open_source(spec).keys != keys


@pytest.mark.parametrize("damaged", [b"", b"PK\x03\x04"])
def test_an_index_that_was_cut_off(root: Path, tmp_path: Path, damaged: bytes) -> None:
    spec = folders(root, tmp_path)
    keys = open_source(spec).keys
    (kept,) = (tmp_path / "cache" / "archives").iterdir()
    kept.write_bytes(damaged)
    assert open_source(spec).keys == keys
    assert kept.stat().st_size > len(damaged)


def test_names_that_each_archive_counts_anew(root: Path, tmp_path: Path) -> None:
    for part, (_, _, data) in enumerate(files(root)[:2]):
        write_tar(tmp_path / f"p{part}.tar", [("000.jpg", data), ("000.cls", b"1\n")])
    source = open_source(f"tar:{tmp_path}/p*.tar")
    assert (source.keys, source.load(1)[1]) == (["p0/000.jpg", "p1/000.jpg"], 1)


def test_classes_called_by_numbers(root: Path, tmp_path: Path) -> None:
    """Folders are classes by name, "10" before "2", and numbers of webdataset are labels."""
    data = files(root)[0][2]
    members = [(f"{name}/{name}.JPEG", data) for name in ("1", "2", "10")]
    archive = write_tar(tmp_path / "numbers.tar", members)
    with tarfile.open(archive) as file:
        file.extractall(tmp_path / "numbers", filter="data")
    (tmp_path / "classes.txt").write_text("2\n1\n10")
    for class_map in (None, tmp_path / "classes.txt"):
        folder = open_source(str(tmp_path / "numbers"), class_map)
        tar = open_source(f"tar:{archive}", class_map)
        assert tar.class_names == folder.class_names
        labels = [{s.keys[i]: s.load(i)[1] for i in range(3)} for s in (folder, tar)]
        assert labels[0] == labels[1]
    write_tar(archive, [*members, ("1/1.cls", b"7")])
    with pytest.raises(DatasetMismatchError, match=r"numbers\.tar.*'2/2\.JPEG' has none"):
        open_source(f"tar:{archive}")


def test_a_damaged_image_in_an_archive(root: Path, tmp_path: Path) -> None:
    members = [(f"{c}/{name}", tiny.hurt(data)) for c, name, data in files(root)]
    source = open_source(f"tar:{write_tar(tmp_path / 'hurt.tar', members)}")
    with pytest.raises(ImageReadError, match=source.keys[0]):
        source.load(0)


def test_class_names_of_part_of_the_classes(root: Path, tmp_path: Path) -> None:
    members = [(f"{c}/{name}", data) for c, name, data in files(root) if c == WNIDS[2]]
    path = write_tar(tmp_path / "part.tar", members)
    (tmp_path / "classes.txt").write_text("\n".join(WNIDS))
    source = open_source(f"tar:{path}", tmp_path / "classes.txt")
    assert (source.load(0)[1], source.class_names) == (2, list(WNIDS))
    (tmp_path / "classes.txt").write_text("\n".join(WNIDS[:2]))
    with pytest.raises(DatasetMismatchError, match=WNIDS[2]):
        open_source(f"tar:{path}", tmp_path / "classes.txt")


def test_a_list_without_labels(root: Path, tmp_path: Path) -> None:
    paths = sorted(str(path) for path in root.rglob("*.JPEG"))
    (tmp_path / "list.txt").write_text("\n".join(paths))
    source = open_source(f"list:{tmp_path / 'list.txt'}")
    assert (list(source.keys), source.load(0)[1]) == (paths, -1)


@pytest.mark.parametrize("content", ["", "a.jpg cat\n", "a.jpg 1\nb.jpg\n"])
def test_lists_that_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "list.txt").write_text(content + "\n")
    with pytest.raises(DatasetMismatchError, match=r"list\.txt"):
        open_source(f"list:{tmp_path / 'list.txt'}")


@pytest.mark.parametrize("name", ["nothing.tar", "compressed.tar.gz", "none.tar", "text.tar"])
def test_archives_that_are_none(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "compressed.tar.gz", "w:gz"):
        pass
    write_tar(tmp_path / "none.tar", [("README", b"no images")])
    (tmp_path / "text.tar").write_text("text" * 1000)
    with pytest.raises(DatasetMismatchError, match=name):
        open_source(f"tar:{tmp_path / name}")


def test_an_image_without_a_class(root: Path, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "flat.tar", [("picture.jpg", files(root)[0][2])])
    with pytest.raises(DatasetMismatchError, match=r"picture\.jpg"):
        open_source(f"tar:{path}")


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_links_in_an_archive_are_not_left_out(
    root: Path, tmp_path: Path, link: Callable[[str, Path], None]
) -> None:
    folder = tmp_path / "images" / "cat"
    folder.mkdir(parents=True)
    (folder / "1.JPEG").write_bytes(files(root)[0][2])
    link(str(folder / "1.JPEG"), folder / "2.JPEG")
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        archive.add(folder, "cat")
    with pytest.raises(DatasetMismatchError, match=r"cat/[12]\.JPEG is a link"):
        open_source(f"tar:{tmp_path / 'links.tar'}")


def test_a_reader_in_another_process(root: Path, tmp_path: Path) -> None:
    images = TarImages(folders(root, tmp_path).removeprefix("tar:"))
    assert np.array_equal(pickle.loads(pickle.dumps(images))[4][0], images[4][0])


@pytest.mark.parametrize(
    "name",
    [
        "n01440764/n01440764_10026.JPEG",
        "n01440764_10026.JPEG",
        "n01440764_10026_n01440764.JPEG",
        "train/n01440764/n01440764_10026.JPEG",
        "n01440764_10026.jpg",
        "n01440764_10026",
    ],
)
def test_imagenet_keys(name: str) -> None:
    assert imagenet_key(name) == "n01440764/n01440764_10026.JPEG"


@pytest.mark.parametrize("rule", ["imagenet", "coco"])
def test_a_rule_that_does_not_apply(tmp_path: Path, rule: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "cat.jpg")
    (tmp_path / "list.txt").write_text("cat.jpg 0")
    with pytest.raises(DatasetMismatchError, match=rule):
        open_source(f"list:{tmp_path / 'list.txt'}", keys=rule)


def test_the_same_image_twice(root: Path, tmp_path: Path) -> None:
    names = [f"{c}/{name}" for c, name, _ in files(root)[:2]]
    lines = [f"{root}/train/{name} 0" for name in names] + [f"{root}/train/../train/{names[0]} 0"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    with pytest.raises(DatasetMismatchError, match=names[0]):
        open_source(f"list:{tmp_path / 'list.txt'}", keys="imagenet")
