from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dr_plugins.errors import FormatError, ReinforcementError, UnknownImageError
from dr_plugins.policies.policy import Policy
from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.shards import mapped
from dr_plugins.shards.container import map_tensors
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.manifest import FileEntry, Manifest
from dr_plugins.shards.reader import ShardSet
from tests.data.make_golden import HERE, KEYS, answer_all, make, params_all, write_set

GOLDEN = HERE / "golden-all"
SAMPLES = 18
PAIRS = [(row, sample) for row in range(len(KEYS)) for sample in range(SAMPLES)]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A copy of a golden set, to be damaged."""
    return shutil.copytree(GOLDEN, tmp_path / "own")


def count_maps(directory: Path) -> int:
    """Number of shard and index files that this process maps."""
    return Path("/proc/self/maps").read_text().count(f"{directory}/")


# --- access ---------------------------------------------------------------------------------------


def test_access_by_key_and_by_row_agree() -> None:
    shards = ShardSet(GOLDEN)
    for row, sample in PAIRS:
        record = shards[row, sample]
        assert record == shards[KEYS[row], sample]
        ids, probs = answer_all(row, sample)
        assert (record["ids"].tolist(), record["probs"].tolist()) == (list(ids), list(probs))


@given(pairs=st.lists(st.sampled_from(PAIRS), max_size=40))
def test_a_batch_equals_single_accesses_in_any_order_with_duplicates(
    pairs: list[tuple[int, int]],
) -> None:
    shards = ShardSet(GOLDEN)
    batch = shards.__getitems__([(KEYS[row], sample) for row, sample in pairs])
    assert batch.tobytes() == b"".join(shards[pair].tobytes() for pair in pairs)
    assert batch.dtype == shards.manifest.layout.dtype
    rows, samples = np.array(pairs, np.int64).reshape(-1, 2).T
    assert shards.read(rows, samples).tobytes() == batch.tobytes()
    params = stored_policy(shards).decode(batch)
    for (row, sample), found in zip(pairs, params, strict=True):
        assert found.partner == params_all(row, sample).partner
        assert found.view[0] == list(params_all(row, sample).view[0])


@pytest.mark.parametrize("row", [-1, 3, 2**40])
def test_rows_out_of_range(row: int) -> None:
    shards = ShardSet(GOLDEN)
    for access in (lambda: shards[row, 0], lambda: shards.image(row)):
        with pytest.raises(IndexError, match=f"row {row} of a set of 3 images"):
            access()


@pytest.mark.parametrize("sample", [-1, SAMPLES])
def test_samples_out_of_range(sample: int) -> None:
    with pytest.raises(IndexError, match=f"reinforcement {sample} of 18"):
        ShardSet(GOLDEN)[0, sample]


def test_rows_and_samples_must_match() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ShardSet(GOLDEN).read(np.array([0, 1]), np.array([0]))


def test_unknown_keys_are_named() -> None:
    with pytest.raises(UnknownImageError, match=r"'n01/b_3\.JPEG'"):
        ShardSet(GOLDEN)["n01/b_3.JPEG", 0]


def test_what_is_read_cannot_be_changed() -> None:
    shards = ShardSet(GOLDEN)
    with pytest.raises(ValueError, match="read-only"):
        shards[0, 0]["flip"] = 1
    with pytest.raises(ValueError, match="read-only"):
        shards.read(np.array([0]), np.array([0]))["flip"] = 1
    with pytest.raises(ValueError, match="read-only"):
        shards.records(0)["flip"] = 1


def test_shards_and_rows() -> None:
    shards = ShardSet(GOLDEN)
    assert (shards.rows(0), shards.rows(1)) == (range(2), range(2, 3))
    assert shards.records(1).shape == (1, SAMPLES)
    text = "3 images x 18 reinforcements, top-2 of 1000 classes, 70 bytes each"
    assert text in repr(shards)


def test_a_set_without_images(tmp_path: Path) -> None:
    policy = Policy.load("randaug_mixing", size=24)
    out = write_set(
        tmp_path / "s", policy, params_all, answer_all, samples=1, num_classes=1000, keys=[]
    )
    shards = ShardSet(out)
    assert (len(shards), list(shards.keys)) == (0, [])
    with pytest.raises(IndexError):
        shards[0, 0]
    assert len(shards.read(np.empty(0, np.int64), np.empty(0, np.int64))) == 0


# --- large numbers --------------------------------------------------------------------------------


def test_ten_thousand_shards_open_nothing_until_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 10_000
    keys = [f"n{i % 1000:03d}/{i:05d}.JPEG" for i in range(count)]
    make("golden-all", tmp_path)
    like = Manifest.load(tmp_path)
    shards = tuple(FileEntry(f"shard-{i:05d}.safetensors", "", 1) for i in range(count))
    index = KeyIndex.build(keys)
    entry = FileEntry("index.safetensors", index.save(tmp_path / "index.safetensors"), count)
    Manifest(like.settings, like.layout, entry, shards, {}).save(tmp_path)
    for file in tmp_path.glob("shard-*"):
        file.unlink()

    opened: list[str] = []
    monkeypatch.setattr(
        mapped, "map_tensors", lambda path: opened.append(path.name) or map_tensors(path)
    )
    descriptors = len(os.listdir("/proc/self/fd"))
    big = ShardSet(tmp_path)
    assert (len(big), len(repr(big)) > 0, stored_policy(big).view_size) == (count, True, (24, 24))
    assert [index[row] for row in big.keys.rows(keys).tolist()] == keys
    pickle.loads(pickle.dumps(big))
    assert opened == []
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1  # the index
    with pytest.raises(FormatError, match=r"cannot read .*shard-04321\.safetensors"):
        big[4321, 0]
    assert opened == ["shard-04321.safetensors"]


@pytest.mark.parametrize(("num_classes", "topk"), [(7, 7), (21841, 21841), (70_000, 3)])
def test_many_classes_round_trip_bit_for_bit_in_float32(
    tmp_path: Path, num_classes: int, topk: int
) -> None:
    rng = np.random.default_rng(num_classes)
    ids = [rng.permutation(num_classes)[:topk] for _ in range(2)]
    probs = [rng.random(topk, np.float32) ** 20 for _ in range(2)]  # far below float16's least
    probs[1][:] = rng.integers(0, 2**31 - 2**23, topk).astype(np.uint32).view(np.float32)
    shards = ShardSet(
        write_set(
            tmp_path / "s",
            Policy.load("randaug_mixing", size=24),
            params_all,
            lambda row, sample: (ids[sample], probs[sample]),
            samples=2,
            num_classes=num_classes,
            probs_dtype="float32",
            keys=["a"],
        )
    )
    for sample in range(2):
        assert shards["a", sample]["ids"].tolist() == ids[sample].tolist()
        assert shards["a", sample]["probs"].tobytes() == probs[sample].tobytes()


# --- processes ------------------------------------------------------------------------------------


def test_close_drops_the_maps_and_access_opens_them_again(own: Path) -> None:
    shards = ShardSet(own)
    assert count_maps(own) == 0
    expected = shards[2, 3].tobytes(), shards[KEYS[0], 1].tobytes()
    assert count_maps(own) == 3
    shards.close()
    assert count_maps(own) == 0
    assert (shards[2, 3].tobytes(), shards[KEYS[0], 1].tobytes()) == expected


def test_the_oldest_maps_are_closed_when_there_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = equal_shards(tmp_path / "own")
    monkeypatch.setattr(mapped, "_MOST_OPEN", 2)
    shards, expected = ShardSet(own), [ShardSet(own)[row, 1].tobytes() for row in range(3)]
    for row in (0, 1, 2, 0, 2, 1):
        held = shards.records(row)
        assert shards[row, 1].tobytes() == expected[row]
        assert count_maps(own) <= 3  # with the index
    assert held[0, 1].tobytes() == expected[1]


def test_a_pickled_set_carries_no_maps(own: Path) -> None:
    shards = ShardSet(own)
    expected = shards[KEYS[1], 2].tobytes()
    data = pickle.dumps(shards)
    assert len(data) < 10_000
    copy = pickle.loads(data)
    assert copy.__dict__.get("keys") is None
    assert copy[KEYS[1], 2].tobytes() == expected


def read_in_workers(context: str, workers: int) -> None:
    shards = ShardSet(GOLDEN)
    shards[0, 0]  # maps that are open already must not be in the way
    loader = DataLoader(
        shards,
        batch_size=4,
        sampler=[(KEYS[row], sample) for row, sample in PAIRS],
        collate_fn=np.copy,
        num_workers=workers,
        multiprocessing_context=multiprocessing.get_context(context),
    )
    found = b"".join(batch.tobytes() for batch in loader)
    assert found == b"".join(shards[pair].tobytes() for pair in PAIRS)


def test_forked_workers_read() -> None:
    read_in_workers("fork", 2)


@pytest.mark.slow
def test_spawned_workers_read() -> None:
    read_in_workers("spawn", 1)


# --- damage ---------------------------------------------------------------------------------------


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


def equal_shards(out: Path) -> Path:
    policy = Policy.load("randaug_mixing", size=24)
    return write_set(
        out,
        policy,
        params_all,
        answer_all,
        samples=SAMPLES,
        num_classes=1000,
        shard_images=1,
    )


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
