from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pytest

from dr_plugins.shards.location import LocalPath
from dr_plugins.shards.remote import RemotePath
from tests.servers import serving
from timm_ext.errors import DatasetNameError, ShardsNotFoundError
from timm_ext.names import SHARDS_VARIABLE, DatasetName, find_shards, parse_name


def test_every_option() -> None:
    text = "imagenet-plus?shards=/data/in1k+&p=0.5&densify=zeros&check=warn&seed=7&skip=a.txt"
    expected = DatasetName("imagenet-plus", "/data/in1k+", "", 0.5, "zeros", "warn", 7, "a.txt")
    assert parse_name(text) == expected


def test_numbers_in_any_notation() -> None:
    for text, p in (("1e-1", 0.1), ("1E0", 1.0), (".5", 0.5), ("0", 0.0), ("-0.0", 0.0)):
        assert parse_name(f"imagenet-plus?p={text}") == DatasetName("imagenet-plus", p=p)


def test_defaults_are_those_of_the_paper() -> None:
    assert parse_name("cifar100-plus") == DatasetName("cifar100-plus", p=0.99, densify="smooth")


def test_name_in_any_case_and_values_as_they_are() -> None:
    assert parse_name("ImageNet-Plus?shards=/Data/In1k") == DatasetName(
        "imagenet-plus", shards="/Data/In1k"
    )


def test_escapes() -> None:
    parsed = parse_name("reinforced?base=torch/fashion_mnist&shards=a%26b=c%25")
    assert parsed is not None
    assert (parsed.base, parsed.shards) == ("torch/fashion_mnist", "a&b=c%")


@pytest.mark.parametrize(
    "path",
    ["/a b/ü?x=1#2;3,4", "/a/50%/x", "/a=b+c", "~/sets", "..", "/a%zz", "/'q\"", "/a\\b/*[0]"],
)
def test_paths_stand_for_themselves(path: str) -> None:
    assert parse_name(f"imagenet-plus?shards={path}&p=0.5") == DatasetName(
        "imagenet-plus", shards=path, p=0.5
    )


def test_every_path_can_be_written() -> None:
    for path in (bytes(range(1, 256)), "/R&D/50%25/ü".encode()):
        parsed = parse_name(f"imagenet-plus?shards={quote(path)}")
        assert parsed is not None
        assert os.fsencode(str(parsed.shards)) == path


@pytest.mark.parametrize("name", ["", "imagenet", "torch/cifar100", "hfds/me/imagenet-plus"])
def test_other_names_are_timms(name: str) -> None:
    assert parse_name(name) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("imagenet_plus", "did you mean 'imagenet-plus'"),
        ("imagenet+", "did you mean 'imagenet-plus'"),
        ("cifar10-plus", "did you mean 'cifar100-plus'"),
        ("reinforced-imagenet", "unknown reinforced dataset"),
        ("imagenet?p=0.9", "did you mean 'imagenet-plus'"),
        ("imagenet-plus?", "unknown dataset option ''"),
        ("imagenet-plus?shard=x", "did you mean 'shards'"),
        ("imagenet-plus?p=1.5", "'p' is '1.5'; expected a probability"),
        ("imagenet-plus?p=nan", "expected a probability"),
        ("imagenet-plus?p=inf", "expected a probability"),
        ("imagenet-plus?p=-1e-9", "expected a probability"),
        ("imagenet-plus?P=1", "did you mean 'p'"),
        ("imagenet-plus?shards=/R&D/set", "`&` in a value is %26"),
        ("imagenet-plus?seed=1e3", "expected an integer from 0"),
        ("imagenet-plus?seed=9223372036854775808", "expected an integer from 0"),
        ("imagenet-plus?seed=1&p=1&seed=1", "given twice"),
        ("imagenet-plus?p=", "'p' is ''"),
        ("imagenet-plus?shards=", "no value"),
        ("imagenet-plus?shards", "no value"),
        ("imagenet-plus?p=1&p=0", "given twice"),
        ("imagenet-plus?densify=no", "expected smooth or zeros"),
        ("imagenet-plus?check=no", "expected error or warn or off"),
        ("imagenet-plus?seed=-1", "expected an integer from 0"),
        ("imagenet-plus?skip=a.txt&p=0", "skip=a.txt"),
        ("imagenet-plus?loss=KDLoss&p=0", "loss=KDLoss"),
        ("imagenet-plus?base=torch/mnist", "write reinforced?base=torch/mnist"),
        ("reinforced?base=torch/mnist&images=tar:a.tar", "images=tar:a.tar"),
    ],
)
def test_errors(name: str, said: str) -> None:
    with pytest.raises(DatasetNameError) as error:
        parse_name(name)
    assert said in str(error.value)


def make_set(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "manifest.json").touch()
    return path


def test_places_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = DatasetName("imagenet-plus")
    beside = make_set(tmp_path / "data" / "reinforcements" / "imagenet-plus")
    assert find_shards(name, tmp_path / "data") == LocalPath(beside)
    monkeypatch.setenv(SHARDS_VARIABLE, str(tmp_path / "sets"))
    assert find_shards(name, tmp_path / "data") == LocalPath(beside)
    among = make_set(tmp_path / "sets" / "imagenet-plus")
    assert find_shards(name, tmp_path / "data") == LocalPath(among)
    monkeypatch.setenv(SHARDS_VARIABLE, str(among))
    assert find_shards(name, None) == LocalPath(among)
    given = make_set(tmp_path / "given")
    assert find_shards(DatasetName("imagenet-plus", str(given)), tmp_path / "data") == LocalPath(
        given
    )


def test_error_lists_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reinforcements" / "food101-plus").mkdir(parents=True)
    (tmp_path / "file").touch()
    monkeypatch.setenv(SHARDS_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(ShardsNotFoundError) as error:
        find_shards(DatasetName("food101-plus"), tmp_path)
    said = str(error.value)
    assert f"${SHARDS_VARIABLE}: {tmp_path / 'file'} (is not a directory)" in said
    assert f"{tmp_path / 'file' / 'food101-plus'} (does not exist)" in said
    assert f"{tmp_path / 'reinforcements' / 'food101-plus'} (has no manifest.json" in said


def test_a_given_place_is_the_only_one(tmp_path: Path) -> None:
    make_set(tmp_path / "reinforcements" / "imagenet-plus")
    with pytest.raises(ShardsNotFoundError, match=r"shards=: .*/none") as error:
        find_shards(DatasetName("imagenet-plus", shards=str(tmp_path / "none")), tmp_path)
    assert "reinforcements" not in str(error.value)


def test_nowhere_to_look() -> None:
    with pytest.raises(ShardsNotFoundError, match="neither DR_PLUGINS_SHARDS nor --data-dir"):
        find_shards(DatasetName("imagenet-plus"), None)


@pytest.mark.parametrize(
    "name",
    [
        "imagenet-plus&p=0.9",
        "imagenet-plus/",
        "imagenet-plus:p=0.9",
        "imagenet-plus,p=0.9",
        "ImageNet-Plus&shards=/data/x",
        "imagenet-pluss",
        "imagenet-pls",
        "reinfroced",
        "reinforced/shards",
        "imagenet-pluss/",
        "imagenet_plus/train",
        " imagenet-plus",
        "./imagenet-plus",
        "imagenet/?p=0.9",
    ],
)
def test_a_name_that_is_almost_ours_never_reaches_timm(name: str) -> None:
    with pytest.raises(DatasetNameError, match=r"options follow a question mark|Known: "):
        parse_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "imagenet",
        "folder",
        "tar",
        "torch/cifar100",
        "torch/imagenet",
        "hfds/x/imagenet-plus",
        "HFDS/me/images?x",
        "hfids/me/reinforced",
        "tfds/food101",
        "./images/train",
        "imagenet21k",
        "imagenet-21k-p",
        "torch/image_folder",
        "ImageFolder",
        "wds/imagenet-1k",
        "imagenet22k",
        "cifar100",
        "food101",
        "flowers102",
    ],
)
def test_names_of_timm_stay_timms(name: str) -> None:
    assert parse_name(name) is None


def test_a_remote_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")
    make_set(tmp_path / "sets" / "imagenet-plus")
    with serving(tmp_path) as server:
        address = f"{server.address}/sets/imagenet-plus"
        name = parse_name(f"imagenet-plus?shards={address}&p=1")
        assert name is not None
        assert find_shards(name, tmp_path) == RemotePath(address)
        monkeypatch.setenv(SHARDS_VARIABLE, f"{server.address}/sets")
        assert find_shards(DatasetName("imagenet-plus"), None) == RemotePath(address)
        with pytest.raises(ShardsNotFoundError, match=f"{server.address}/none"):
            find_shards(DatasetName("imagenet-plus", f"{server.address}/none"), None)
