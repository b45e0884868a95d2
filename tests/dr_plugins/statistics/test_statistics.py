"""Statistics agree with a plain computation over all classes, and are never of another set."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from dr_plugins.errors import FormatError, WorkerError
from dr_plugins.records import NO_PARTNER, Field, RecordLayout, target_fields
from dr_plugins.shards.claims import locked
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.output import OutputDirectory
from dr_plugins.shards.reader import ShardSet
from dr_plugins.shards.shard import Shard
from dr_plugins.statistics import (
    ImageStatistics,
    average_answers,
    compute_statistics,
    open_statistics,
)
from dr_plugins.statistics import answers as answers_module
from tests.servers import serving

SAMPLES, IMAGES = 7, 11


def write_set(
    out: Path, *, topk: int = 3, classes: int = 20, mixes: bool = False, seed: int = 0
) -> ShardSet:
    """A set of random answers, most of them sure of some class; two images have no label."""
    parameters = [Field("flip", "<u1"), *([Field("partner", "<u4")] if mixes else [])]
    layout = RecordLayout((*parameters, *target_fields(topk, classes)))
    settings = {
        "policy": {"seed": seed},
        "samples": SAMPLES,
        "topk": topk,
        "num_classes": classes,
        "class_names": None,
        "probs_dtype": "float16",
    }
    keys = KeyIndex.build(f"{i:05d}" for i in range(IMAGES))
    rng = np.random.default_rng(seed)
    with locked(out):
        output = OutputDirectory(out, settings, layout, keys)
        for number, first in enumerate(range(0, IMAGES, 4)):
            shard = Shard.empty(first, min(4, IMAGES - first), SAMPLES, layout)
            count = len(shard.records)
            logits = rng.normal(0, 2, (count, SAMPLES, classes)) + rng.normal(
                0, 2, (count, 1, classes)
            )
            probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            ids = np.argsort(-probs, -1)[..., :topk]
            shard.records["ids"] = ids
            shard.records["probs"] = np.take_along_axis(probs, ids, -1)
            shard.labels[:] = rng.integers(0, classes, count)
            if mixes:
                partners = rng.integers(0, IMAGES, (count, SAMPLES))
                alone = rng.random((count, SAMPLES)) < 0.5
                alone[0] = False
                shard.records["partner"] = np.where(alone, NO_PARTNER, partners)
            output.add(number, shard)
        shard.labels[:2] = -1
        output.add(number, shard)
        output.finish()
    return ShardSet(out)


def dense(record: np.void, classes: int) -> np.ndarray:
    """The probabilities of all classes, by the rule of the SparseTargets' documentation."""
    probs = record["probs"].astype(np.float64)
    rest = 1 - probs.sum()
    if rest < 0 or len(probs) == classes:
        probs, rest = probs / probs.sum(), 0.0
    found = np.full(classes, rest / max(classes - len(probs), 1))
    found[record["ids"]] = probs
    return found


def entropy(p: np.ndarray) -> float:
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


@pytest.fixture(params=[(3, 20, False), (1, 4, False), (4, 4, False), (3, 20, True)], ids=str)
def shards(request: pytest.FixtureRequest, tmp_path: Path) -> ShardSet:
    topk, classes, mixes = request.param
    return write_set(tmp_path / "set", topk=topk, classes=classes, mixes=mixes)


def counted(shards: ShardSet, row: int) -> np.ndarray:
    """The records of the views of an image that count."""
    records = shards.read(np.full(SAMPLES, row), np.arange(SAMPLES))
    if "partner" not in records.dtype.names:
        return records
    alone = records[records["partner"] == NO_PARTNER]
    return alone if len(alone) else records


def expected(shards: ShardSet, row: int) -> dict[str, float]:
    classes, label = shards.manifest.num_classes, shards.image(row).label
    views = np.stack([dense(record, classes) for record in counted(shards, row)])
    mean = views.mean(0)
    positive = [(p[p > 0] * np.log(p[p > 0] / mean[p > 0])).sum() for p in views]
    known = label >= 0
    return {
        "label": label,
        "confidence": views.max(1).mean(),
        "entropy": entropy(mean),
        "spread": float(np.mean(positive)),
        "agreement": (views.argmax(1) == label).mean() if known else float("nan"),
        "label_prob": mean[label] if known else float("nan"),
    }


@pytest.mark.parametrize("block", [1, 1 << 20])
def test_they_are_those_of_a_dense_computation(
    shards: ShardSet, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "_VALUES", block)
    found = compute_statistics(shards)
    assert len(found) == IMAGES
    for row in range(IMAGES):
        wanted = expected(shards, row)
        assert_allclose([getattr(found, n)[row] for n in wanted], [*wanted.values()], atol=2e-6)


def test_top_classes_are_those_of_the_average(shards: ShardSet) -> None:
    found, classes = compute_statistics(shards), shards.manifest.num_classes
    for row in range(IMAGES):
        mean = np.mean([dense(record, classes) for record in counted(shards, row)], 0)
        listed = found.top_classes[row][found.top_classes[row] >= 0]
        assert_allclose(
            found.top_probs[row][: len(listed)], np.sort(mean)[::-1][: len(listed)], atol=1e-6
        )
        assert_allclose(mean[listed], found.top_probs[row][: len(listed)], atol=1e-6)
        assert not found.top_probs[row][len(listed) :].any()


def test_average_answers_are_those_of_a_dense_computation(shards: ShardSet) -> None:
    classes = shards.manifest.num_classes
    rows = [8, 0, 0, 5]
    listed, probs = average_answers(shards, rows)
    for row, ids, values in zip(rows, listed, probs, strict=True):
        mean = np.mean([dense(record, classes) for record in counted(shards, row)], 0)
        ids = ids[ids >= 0]
        full = np.full(classes, (1 - values.sum()) / max(classes - len(ids), 1))
        full[ids] = values[: len(ids)]
        assert_allclose(full, mean, atol=1e-6)
        assert (np.diff(values) <= 0).all()


def test_no_rows_have_no_answers(shards: ShardSet) -> None:
    assert average_answers(shards, []).classes.shape[0] == 0


def test_confusion_counts_the_views_of_known_labels(shards: ShardSet) -> None:
    wanted: dict[tuple[int, int], int] = {}
    for row in range(IMAGES):
        label = shards.image(row).label
        for record in counted(shards, row) if label >= 0 else ():
            pair = label, int(record["ids"][0])
            wanted[pair] = wanted.get(pair, 0) + 1
    confusion = compute_statistics(shards).confusion
    pairs = zip(confusion.labels.tolist(), confusion.classes.tolist(), strict=True)
    assert list(zip(pairs, confusion.counts.tolist(), strict=True)) == sorted(wanted.items())


def test_images_of_mixed_views_only_are_marked(tmp_path: Path) -> None:
    found = compute_statistics(write_set(tmp_path, mixes=True))
    assert np.flatnonzero(found.mixed).tolist() == [0, 4, 8]


def equal(one: ImageStatistics, other: ImageStatistics) -> bool:
    pairs = zip(
        (*one.columns().values(), *one.confusion),
        (*other.columns().values(), *other.confusion),
        strict=True,
    )
    return all(
        a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs
    )


def test_processes_compute_the_same(tmp_path: Path) -> None:
    shards = write_set(tmp_path, mixes=True)
    assert equal(compute_statistics(shards, workers=2), compute_statistics(shards))


def test_a_summary_has_means_and_the_most_confused_pairs(tmp_path: Path) -> None:
    found = compute_statistics(write_set(tmp_path))
    summary = found.summary(pairs=3)
    assert summary["images"] == IMAGES
    assert summary["labelled"] == IMAGES - 2
    assert summary["agreement"] == pytest.approx(np.nanmean(found.agreement))
    assert len(summary["confused"]) == 3
    labels, classes, counts = found.confusion
    worst = counts[labels != classes].max()
    assert summary["confused"][0]["views"] == worst
    assert summary["confused"][0]["label"] != summary["confused"][0]["answer"]


class DyingSet(ShardSet):
    """Kills the process that reads it."""

    def shard(self, number: int) -> Shard:
        os._exit(1)


def test_a_process_that_dies_is_an_error(tmp_path: Path) -> None:
    write_set(tmp_path)
    with pytest.raises(WorkerError, match=str(tmp_path)):
        compute_statistics(DyingSet(tmp_path), workers=1)


# --- the file -------------------------------------------------------------------------------------


def test_they_are_kept_and_read_again(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_statistics(shards)
    monkeypatch.delattr("dr_plugins.statistics.file.compute_statistics")
    assert equal(open_statistics(shards), first)


def test_those_of_another_set_are_not_used(tmp_path: Path) -> None:
    one = write_set(tmp_path / "one")
    other = write_set(tmp_path / "other", seed=1)
    kept = open_statistics(one)
    os.replace(tmp_path / "one" / "statistics.npz", tmp_path / "other" / "statistics.npz")
    found = open_statistics(other)
    assert not equal(found, kept)
    assert equal(found, compute_statistics(other))
    assert equal(open_statistics(ShardSet(other.directory)), found)


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_damaged_file_is_replaced(tmp_path: Path, size: int) -> None:
    """Cut short, or with another bit in an array."""
    shards = write_set(tmp_path)
    first = open_statistics(shards)
    file = tmp_path / "statistics.npz"
    data = bytearray(file.read_bytes())
    data[data.index(first.entropy.tobytes()) + 3] ^= 1
    file.write_bytes(data[:size] if size >= 0 else data)
    assert equal(open_statistics(shards), first)
    assert file.read_bytes() != data


def test_a_set_that_is_replaced_while_open_is_an_error(tmp_path: Path) -> None:
    shards = write_set(tmp_path / "one")
    write_set(tmp_path / "other", seed=1)
    os.rename(tmp_path / "one", tmp_path / "old")
    os.rename(tmp_path / "other", tmp_path / "one")
    with pytest.raises(FormatError, match="one"):
        open_statistics(shards)


def test_those_of_a_remote_set_are_kept_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp")
    pytest.importorskip("tenacity")
    monkeypatch.setenv("DR_PLUGINS_CACHE", str(tmp_path / "cache"))
    here = write_set(tmp_path / "set")
    with serving(tmp_path) as server:
        there = ShardSet(f"{server.address}/set")
        assert equal(open_statistics(there), compute_statistics(here))
    monkeypatch.delattr("dr_plugins.statistics.file.compute_statistics")
    assert equal(open_statistics(there), open_statistics(there))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_named(tmp_path: Path, workers: int) -> None:
    shards = write_set(tmp_path)
    file = tmp_path / "shard-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)
    with pytest.raises(FormatError, match="shard-00001"):
        open_statistics(shards, workers)
    assert not (tmp_path / "statistics.npz").exists()


def test_a_read_only_set_keeps_them_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DR_PLUGINS_CACHE", str(tmp_path / "cache"))
    shards = write_set(tmp_path / "set")
    (tmp_path / "set" / "statistics.npz").mkdir()  # nothing can be written there, even by root
    first = open_statistics(shards)
    assert len(list((tmp_path / "cache" / "statistics").iterdir())) == 1
    monkeypatch.delattr("dr_plugins.statistics.file.compute_statistics")
    assert equal(open_statistics(shards), first)
