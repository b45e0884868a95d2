from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from dr_plugins.errors import FormatError, VersionError
from dr_plugins.shards.manifest import Manifest, library_versions, settings_digest
from dr_plugins.shards.reader import ShardSet
from tests.data.make_golden import HERE

GOLDEN = HERE / "golden-all"
ORIGINAL = json.loads((GOLDEN / "manifest.json").read_text("utf-8"))


def put(directory: Path, data: Any) -> Path:
    text = data if isinstance(data, str) else json.dumps(data)
    (directory / "manifest.json").write_text(text, "utf-8")
    return directory


def changed(*path: str | int, value: Any, consistent: bool = False) -> dict[str, Any]:
    """The golden manifest with one value replaced; with its set id made to fit, if wanted."""
    data = copy.deepcopy(ORIGINAL)
    *parents, last = path
    node: Any = data
    for name in parents:
        node = node[name]
    node[last] = value
    if consistent:
        data["set_id"] = settings_digest(data["settings"])
    return data


def test_round_trip(tmp_path: Path) -> None:
    manifest = Manifest.load(GOLDEN)
    assert (manifest.samples, manifest.topk, manifest.num_classes) == (18, 2, 1000)
    assert [entry.images for entry in manifest.shards] == [2, 1]
    manifest.save(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text("utf-8")) == ORIGINAL
    assert Manifest.load(tmp_path) == manifest


def test_set_id_is_the_documented_digest() -> None:
    # printf '{"a":[1,null],"b":"ü"}' | sha256sum | cut -c1-16
    assert settings_digest({"b": "ü", "a": [1, None]}) == "99d384bcceb17297"
    assert Manifest.load(GOLDEN).set_id == ORIGINAL["set_id"]


def test_versions_name_what_decodes_augments_and_predicts() -> None:
    versions = library_versions()
    assert list(versions) == ["python", "dr-plugins", "torch", "torchvision", "numpy", "pillow"]
    assert all(version[0].isdigit() for version in versions.values())


def test_a_newer_version_asks_for_an_upgrade(tmp_path: Path) -> None:
    with pytest.raises(VersionError, match=r"manifest\.json has format version 2.*Upgrade"):
        Manifest.load(put(tmp_path, changed("version", value=2)))


def test_a_missing_manifest_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"not a shard set.*to resume"):
        ShardSet(tmp_path)
    with pytest.raises(FormatError, match=r"not a shard set"):
        ShardSet(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"x"', "{}", "[" * 100_000, "\0"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(FormatError, match=r"manifest\.json"):
        Manifest.load(put(tmp_path, text))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(FormatError, match=r"manifest\.json"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../golden-crop/shard-00000.safetensors",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a/b.safetensors",
        "a\\b.safetensors",
        "shard\0.safetensors",
        "shard\n.safetensors",
        ".safetensors",
        "\ud800.safetensors",
        "manifest.json",
        None,
        7,
        ["shard-00000.safetensors"],
    ],
)
@pytest.mark.parametrize("where", [("index", "file"), ("shards", 0, "file")])
def test_file_names_stay_inside_the_directory(
    tmp_path: Path, where: tuple[str | int, ...], name: object
) -> None:
    with pytest.raises(FormatError, match=r"manifest\.json is damaged"):
        Manifest.load(put(tmp_path, changed(*where, value=name)))


@pytest.mark.parametrize("digest", ["/etc/passwd", "../" * 20 + "1", "0" * 63, "F" * 64, "", None])
@pytest.mark.parametrize("where", [("index", "sha256"), ("shards", 0, "sha256")])
def test_checksums_name_files_inside_the_cache(
    tmp_path: Path, where: tuple[str | int, ...], digest: object
) -> None:
    with pytest.raises(FormatError, match=r"manifest\.json is damaged"):
        Manifest.load(put(tmp_path, changed(*where, value=digest)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), True),
        (("version",), 0),
        (("version",), "1"),
        (("format",), "other"),
        (("set_id",), "0" * 16),
        (("index", "images"), 4),
        (("index", "images"), 10**30),
        (("index", "images"), -1),
        (("shards", 0, "images"), 2.0),
        (("shards",), []),
        (("shards",), {"0": 1}),
        (("record", "bytes"), 0),
        (("record", "fields", 0, "shape"), [10**30]),
        (("record", "fields", 0, "shape"), [2**31]),
        (("record", "fields", 0, "name"), ["crop"]),
        (("record", "fields", 0, "dtype"), ["<u2"]),
        (("record",), []),
        (("settings",), [1]),
        (("versions",), 3),
    ],
)
def test_contradictions_and_huge_counts_are_refused(
    tmp_path: Path, path: tuple[str | int, ...], value: object
) -> None:
    with pytest.raises(FormatError, match=r"manifest"):
        Manifest.load(put(tmp_path, changed(*path, value=value)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("samples", 0),
        ("samples", 18.0),
        ("samples", 10**9),
        ("samples", float("inf")),
        ("samples", "18"),
        ("samples", True),
        ("topk", 3),
        ("topk", 10**30),
        ("num_classes", 1),
        ("num_classes", 70_000),
        ("probs_dtype", "float32"),
        ("probs_dtype", ["float16"]),
        ("policy", None),
        ("policy", "randaug"),
        ("class_names", 5),
    ],
)
def test_settings_that_do_not_fit_the_records_are_refused(
    tmp_path: Path, name: str, value: object
) -> None:
    with pytest.raises(FormatError, match=r"manifest\.json is damaged"):
        Manifest.load(put(tmp_path, changed("settings", name, value=value, consistent=True)))


@pytest.mark.parametrize("name", ["samples", "topk", "num_classes", "policy", "class_names"])
def test_settings_that_are_missing_are_named(tmp_path: Path, name: str) -> None:
    data = copy.deepcopy(ORIGINAL)
    del data["settings"][name]
    data["set_id"] = settings_digest(data["settings"])
    with pytest.raises(FormatError, match=name):
        Manifest.load(put(tmp_path, data))
