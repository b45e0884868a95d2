"""The committed shard sets pin the format: whoever changes a byte of it sees a failure here."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.shards.reader import ShardSet
from dr_plugins.tools.verify import verify
from tests.data.make_golden import HERE, KEYS, SETS, make, without_versions

FORMAT = HERE.parent.parent / "FORMAT.md"
# crop, flip, ops, erase | partner | crop, flip, ops, erase of the partner | mixup, cutmix | ids,
# probs | crc32: written down from FORMAT.md, not from the code.
RECORD_ALL = struct.Struct("<4HB2B4H I 4HB2B4H d4H 2H2e I")
RECORD_CROP = struct.Struct("<2HB 3I3f I")


@pytest.mark.parametrize("name", SETS)
def test_the_code_still_writes_the_same_bytes(name: str, tmp_path: Path) -> None:
    made = make(name, tmp_path / name)
    files = sorted(p.name for p in (HERE / name).iterdir())
    assert files == sorted(p.name for p in made.iterdir() if p.name != ".lock")
    assert files == [
        "index.safetensors",
        "manifest.json",
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]
    for file in files:
        if file == "manifest.json":
            assert without_versions(made / file) == (HERE / name / file).read_text("utf-8")
        else:
            assert (made / file).read_bytes() == (HERE / name / file).read_bytes(), file


@pytest.mark.parametrize("name", SETS)
def test_golden_sets_verify(name: str) -> None:
    report = verify(HERE / name)
    assert report.problems == []
    assert report.files == 3


def test_numbers_of_all_fields() -> None:
    shards = ShardSet(HERE / "golden-all")
    assert (len(shards), list(shards.keys)) == (3, list(KEYS))
    record = shards["n01/b_2.JPEG", 5]
    assert record["crop"].tolist() == [1, 5, 301, 65530]
    assert record["flip"] == 1
    assert record["ops"].tolist() == [5, 129]
    assert record["erase"].tolist() == [0, 0, 0, 0]
    assert record["partner"] == 2
    assert record["partner_crop"].tolist() == [2, 6, 302, 65529]
    assert record["partner_flip"] == 0
    assert record["partner_ops"].tolist() == [6, 130]
    assert record["partner_erase"].tolist() == [6, 2, 7, 9]
    assert record["mixup"] == 1 - 5 / 64
    assert record["cutmix"].tolist() == [5, 2, 20, 21]
    assert record["ids"].tolist() == [994, 1]
    assert record["probs"].tolist() == [0.5 + 5 / 64, 0.125]
    unmixed = shards["n01/b_2.JPEG", 4]
    assert unmixed["partner"] == 2**32 - 1
    assert unmixed["partner_crop"].tolist() == [0, 0, 0, 0]
    assert (unmixed["mixup"], unmixed["cutmix"].tolist()) == (1.0, [0, 0, 0, 0])
    (params,) = stored_policy(shards).decode(shards.read(np.array([1]), np.array([4])))
    assert params.partner is None


def test_numbers_of_wide_ids_and_lossless_probabilities() -> None:
    shards = ShardSet(HERE / "golden-crop")
    record = shards["n02/ü.JPEG", 1]
    assert record["offset"].tolist() == [2, 5]
    assert record["ids"].tolist() == [65536, 512, 1]
    assert record["probs"].dtype == np.float32
    assert record["probs"].tolist() == [np.float32(x) for x in (0.5, 0.1, 0.001)]


def test_facts_of_the_images() -> None:
    shards = ShardSet(HERE / "golden-all")
    assert shards.image(0) == (0, (400, 500), b"\x11" * 8, 0)
    assert shards.image(1) == (1, (401, 500), b"\x22" * 8, 1)
    assert shards.image(2) == (-1, (0, 0), None, 2)


@pytest.mark.parametrize(
    ("name", "struct_", "samples"),
    [("golden-all", RECORD_ALL, 18), ("golden-crop", RECORD_CROP, 2)],
)
def test_a_record_unpacks_as_the_specification_says(
    name: str, struct_: struct.Struct, samples: int
) -> None:
    shards = ShardSet(HERE / name)
    assert struct_.size == shards.manifest.layout.itemsize
    set_id = json.loads((HERE / name / "manifest.json").read_text("utf-8"))["set_id"]
    for row, key in enumerate(KEYS):
        tensors = load_file(HERE / name / f"shard-{row // 2:05d}.safetensors")
        raw = tensors["records"]
        assert (raw.dtype, raw.shape[1:]) == (np.uint8, (samples, struct_.size))
        for sample in range(samples):
            data = raw[row % 2, sample].tobytes()
            *values, crc = struct_.unpack(data)
            assert crc == zlib.crc32(data[:-4], zlib.crc32((set_id + key).encode()))
            read = shards[row, sample].item()
            flat = [x for v in read for x in (v.tolist() if isinstance(v, np.ndarray) else [v])]
            assert [*values, crc] == flat


def test_the_snippet_of_the_specification_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", FORMAT.read_text("utf-8"), re.DOTALL)
    (tmp_path / "imagenet-plus").symlink_to(HERE / "golden-all")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(snippet, "FORMAT.md", "exec"), scope)
    assert scope["keys"] == list(KEYS)
    assert capsys.readouterr().out == "n01/b_10.JPEG [982   0] [0.7656 0.125 ]\n"
