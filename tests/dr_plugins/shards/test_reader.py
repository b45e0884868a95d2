from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dr_plugins.errors import FormatError, UnknownImageError
from dr_plugins.policies.policy import Policy
from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.shards import mapped
from dr_plugins.shards.container import map_tensors
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.manifest import FileEntry, Manifest
from dr_plugins.shards.reader import ShardSet
from tests.data.make_golden import HERE, KEYS, answer_all, make, params_all, write_set
from tests.dr_plugins.shards.equal_shards import equal_shards

GOLDEN = HERE / "golden-all"
SAMPLES = 18
PAIRS = [(row, sample) for row in range(len(KEYS)) for sample in range(SAMPLES)]


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


def test_the_working_directory_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("golden-all", tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    shards = ShardSet("set")
    monkeypatch.chdir("/")
    shards.check_in_place(np.array([0]))
    assert shards[shards.keys[2], 1].dtype == shards.manifest.layout.dtype


def test_ten_thousand_shards_open_nothing_until_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 10_000
    keys = [f"n{i % 1000:03d}/{i:05d}.JPEG" for i in range(count)]
    make("golden-all", tmp_path)
    like = Manifest.load(tmp_path)
    shards = tuple(FileEntry(f"shard-{i:05d}.safetensors", "0" * 64, 1) for i in range(count))
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
