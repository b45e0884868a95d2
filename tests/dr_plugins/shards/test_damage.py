"""Shards, indices and manifests that are damaged, exchanged or missing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dr_plugins.errors import FormatError, ReinforcementError
from dr_plugins.policies.policy import Policy
from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.manifest import Manifest
from dr_plugins.shards.reader import ShardSet
from tests.data.make_golden import HERE, KEYS, answer_all, params_all, write_set
from tests.dr_plugins.shards.equal_shards import equal_shards

GOLDEN = HERE / "golden-all"
SAMPLES = 18
PAIRS = [(row, sample) for row in range(len(KEYS)) for sample in range(SAMPLES)]


def test_a_missing_shard_is_named_and_the_others_work(own: Path) -> None:
    (own / "shard-00000.safetensors").unlink()
    shards = ShardSet(own)
    shards[2, 0]
    with pytest.raises(FormatError, match=r"shard-00000\.safetensors: No such file.*reinforce"):
        shards[KEYS[0], 0]


def test_a_missing_index_is_named(own: Path) -> None:
    (own / "index.safetensors").unlink()
    with pytest.raises(FormatError, match=r"index\.safetensors: No such file"):
        ShardSet(own)[0, 0]


@pytest.mark.parametrize("file", ["shard-00000.safetensors", "index.safetensors"])
@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 0.5, -8, -1])
def test_truncated_files_are_named(own: Path, file: str, length: float) -> None:
    data = (own / file).read_bytes()
    keep = int(length * len(data)) if 0 < length < 1 else int(length)
    (own / file).write_bytes(data[:keep])
    with pytest.raises(FormatError, match=rf"{file}.*(truncated|empty).*[Cc]opy"):
        ShardSet(own)[0, 0]


def test_a_longer_file_is_noticed(own: Path) -> None:
    with open(own / "shard-00000.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(FormatError, match=r"shard-00000\.safetensors is truncated or"):
        ShardSet(own)[0, 0]


WHOLE = (GOLDEN / "shard-00000.safetensors").read_bytes()
HEADER = 8 + int.from_bytes(WHOLE[:8], "little")
SIZE = 70  # of a record
RECORDS = len(WHOLE) - 2 * SAMPLES * SIZE


@settings(max_examples=120)
@given(position=st.integers(0, HEADER - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_header_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    own = shutil.copytree(GOLDEN, tmp_path_factory.mktemp("flip") / "own")
    data = bytearray(WHOLE)
    data[position] ^= 1 << bit
    (own / "shard-00000.safetensors").write_bytes(data)
    with pytest.raises(FormatError, match=r"shard-00000\.safetensors"):
        ShardSet(own)[0, 0]


@settings(max_examples=120)
@given(position=st.integers(RECORDS, len(WHOLE) - 1), value=st.integers(1, 255))
def test_any_changed_byte_of_a_record_is_noticed_and_only_there(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    own = shutil.copytree(GOLDEN, tmp_path_factory.mktemp("flip") / "own")
    data = bytearray(WHOLE)
    data[position] ^= value
    (own / "shard-00000.safetensors").write_bytes(data)
    shards = ShardSet(own)
    damaged = divmod((position - RECORDS) // SIZE, SAMPLES)
    for pair in PAIRS:
        if pair != damaged:
            shards[pair]
    named = rf"shard-00000\.safetensors: a record of image '{KEYS[damaged[0]]}' is damaged"
    for access in (lambda: shards[damaged], lambda: shards.__getitems__([(2, 1), damaged])):
        with pytest.raises(FormatError, match=named):
            access()


def other_seed(out: Path) -> Path:
    policy = Policy.load("randaug_mixing", size=24)
    return write_set(out, policy, params_all, answer_all, samples=SAMPLES, num_classes=1000, seed=1)


def test_a_shard_of_another_set_is_refused(own: Path, tmp_path: Path) -> None:
    other = other_seed(tmp_path / "other")
    shutil.copy(other / "shard-00001.safetensors", own)
    with pytest.raises(FormatError, match=r"shard-00001.safetensors is damaged, or belongs to"):
        ShardSet(own)[2, 0]


@pytest.mark.parametrize("in_place", [True, False])
def test_a_set_replaced_while_in_use_is_noticed(own: Path, tmp_path: Path, in_place: bool) -> None:
    shards = ShardSet(own)
    before = shards[0, 0].tobytes()
    for file in other_seed(tmp_path / "other").glob("[!.]*"):
        if in_place:  # under the map, as `rsync --inplace` does
            with open(own / file.name, "r+b") as mapped_file:
                mapped_file.write(file.read_bytes())
        else:
            os.replace(file, own / file.name)
    if in_place:
        with pytest.raises(FormatError, match=r"shard-00000\.safetensors"):
            shards[0, 0]
    else:
        assert shards[0, 0].tobytes() == before
    with pytest.raises(FormatError, match=r"shard-00001\.safetensors"):
        shards[2, 0]  # opened only now
    ShardSet(own)[0, 0], ShardSet(own)[2, 0]


def test_two_swapped_shards_of_one_set_are_refused(tmp_path: Path) -> None:
    own = equal_shards(tmp_path / "own")
    first, second = (own / f"shard-0000{i}.safetensors" for i in (0, 1))
    first.rename(tmp_path / "t")
    second.rename(first)
    (tmp_path / "t").rename(second)
    for row in (0, 1):
        with pytest.raises(FormatError, match=rf"shard-0000{row}.safetensors is damaged, or"):
            ShardSet(own)[row, 0]


def test_records_copied_to_another_image_are_refused(own: Path) -> None:
    data = bytearray(WHOLE)
    data[RECORDS : RECORDS + SIZE] = data[RECORDS + SAMPLES * SIZE :][:SIZE]
    (own / "shard-00000.safetensors").write_bytes(data)
    with pytest.raises(FormatError, match=r"belongs to another image"):
        ShardSet(own)[0, 0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["n01/b_10.JPEG", "n01/b_2.JPEG"], r"index\.safetensors holds 2 images, the manifest"),
        (["n01/b_11.JPEG", "n01/b_2.JPEG", "x"], r"'n01/b_11.JPEG' is damaged, or belongs to"),
    ],
)
def test_an_index_of_another_set_is_refused(own: Path, keys: list[str], message: str) -> None:
    KeyIndex.build(keys).save(own / "index.safetensors")
    with pytest.raises(FormatError, match=message):
        ShardSet(own)[0, 0]


def test_a_shard_in_place_of_the_index_is_refused(own: Path) -> None:
    shutil.copy(own / "shard-00000.safetensors", own / "index.safetensors")
    with pytest.raises(FormatError, match=r"index\.safetensors is not a key index"):
        ShardSet(own)[0, 0]


HUGE = 10**30


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["records"].update(shape=[HUGE, 1, 1]),
        lambda h: h["records"].update(shape=[2**62, 8, 2]),
        lambda h: h["records"].update(shape=[0, HUGE]),
        lambda h: h["records"].update(shape=[-2, -SAMPLES, SIZE]),
        lambda h: h["records"].update(shape=[float("inf")]),
        lambda h: h["records"].update(shape="abc"),
        lambda h: h["records"].update(shape=None),
        lambda h: h["records"].update(data_offsets=[0, HUGE]),
        lambda h: h["records"].update(data_offsets=[-1, 5]),
        lambda h: h["records"].update(data_offsets=[float("nan"), 1e999]),
        lambda h: h["records"].update(data_offsets=["0", "8"]),
        lambda h: h["records"].update(data_offsets=[0]),
        lambda h: h["records"].update(data_offsets=[]),
        lambda h: h["records"].update(dtype=["U8"]),
        lambda h: h["records"].update(dtype="F64"),
        lambda h: h.update(records=7),
        lambda h: h.update(records=[]),
        lambda h: h.update(more={"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}),
        lambda h: h.update(__metadata__=[]),
        lambda h: h.update(__metadata__=None),
        lambda h: h.pop("__metadata__"),
        lambda h: h.pop("labels"),
        lambda h: h.clear(),
    ],
)
def test_absurd_headers_are_refused(own: Path, change: Callable[[dict], object]) -> None:
    header = json.loads(WHOLE[8:HEADER])
    change(header)
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + WHOLE[HEADER:]
    (own / "shard-00000.safetensors").write_bytes(data)
    with pytest.raises(FormatError, match=r"shard-00000\.safetensors"):
        ShardSet(own)[0, 0]


def test_deeply_nested_headers_are_refused(own: Path) -> None:
    text = b"[" * 200_000
    (own / "shard-00000.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(FormatError, match=r"shard-00000\.safetensors"):
        ShardSet(own)[0, 0]


def test_a_policy_that_does_not_fit_the_records_is_refused(own: Path) -> None:
    manifest = Manifest.load(own)
    policy = Policy.load("rrc", size=24).to_config()
    changed = {**manifest.settings, "policy": policy}
    Manifest(changed, manifest.layout, manifest.index, manifest.shards, {}).save(own)
    with pytest.raises(ReinforcementError, match=r"the policy stores \['crop', 'flip'\]"):
        _ = stored_policy(ShardSet(own))


@pytest.mark.parametrize("name", ["labels", "sizes", "fingerprints"])
def test_a_flipped_bit_outside_the_records_is_noticed(tmp_path: Path, name: str) -> None:
    own = tmp_path / "own"
    shutil.copytree(GOLDEN, own)
    path = own / "shard-00000.safetensors"
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    offset = json.loads(data[8:start])[name]["data_offsets"][0]
    data[start + offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"shard-00000\.safetensors is damaged"):
        ShardSet(own).image(0)


def test_many_shards_hold_no_files_open(tmp_path: Path) -> None:
    own = equal_shards(tmp_path / "own")
    before = len(os.listdir("/proc/self/fd"))
    kept = [ShardSet(own) for _ in range(20)]
    assert all(shards[0, 0] is not None for shards in kept)
    assert len(os.listdir("/proc/self/fd")) == before
