from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dr_plugins.errors import FormatError
from dr_plugins.generation.unfinished import finish_set, measure_progress
from dr_plugins.shards.claims import joined
from dr_plugins.shards.reader import ShardSet
from tests.tiny import make_set


@pytest.fixture
def unfinished(tmp_path: Path, photographs: Path) -> Path:
    """Shards of 5, 5 and 2 images, as they are before the manifest is written."""
    out = make_set(tmp_path / "set", photographs)
    manifest = json.loads((out / "manifest.json").read_text())
    names = ("settings", "versions", "record")
    (out / "unfinished.json").write_text(json.dumps({name: manifest[name] for name in names}))
    (out / "manifest.json").rename(tmp_path / "manifest.json")
    return out


def test_finishing_writes_the_same_manifest(unfinished: Path) -> None:
    manifest = finish_set(unfinished)
    assert manifest == finish_set(unfinished) == ShardSet(unfinished).manifest
    before = unfinished.parent / "manifest.json"
    assert (unfinished / "manifest.json").read_bytes() == before.read_bytes()
    assert not (unfinished / "unfinished.json").exists()


@pytest.mark.parametrize("damaged", [False, True])
def test_missing_and_damaged_shards_are_named(unfinished: Path, damaged: bool) -> None:
    shard = unfinished / "shard-00001.safetensors"
    if damaged:
        shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    else:
        shard.unlink()
    with pytest.raises(FormatError, match=r"1 of 3 shards .*: 1\."):
        finish_set(unfinished)
    assert not (unfinished / "manifest.json").exists()


def test_an_index_of_other_images_is_refused(
    unfinished: Path, tmp_path: Path, photographs: Path
) -> None:
    other = make_set(tmp_path / "other", photographs, left_out=["n01/n01_2.JPEG"])
    (other / "index.safetensors").rename(unfinished / "index.safetensors")
    with pytest.raises(FormatError, match="index"):
        finish_set(unfinished)


def test_progress_counts_what_all_have_made(unfinished: Path) -> None:
    (unfinished / "shard-00001.safetensors").unlink()
    (unfinished / "failed-00001.json").write_text('{"by": "rank 2", "error": "TeacherError: no"}')
    for name, time in (("unfinished.json", 1000), ("shard-00000.safetensors", 1020)):
        os.utime(unfinished / name, (time, time))
    os.utime(unfinished / "shard-00002.safetensors", (1035, 1035))
    with joined(unfinished) as claims:
        claims.take(1)
        progress = measure_progress(unfinished)
    assert (progress.stored, progress.shards) == (2, 3)
    assert (progress.done, progress.images) == (7, 12)
    assert progress.made == (1,)
    assert progress.failures == {1: "TeacherError: no (rank 2)"}
    assert progress.rate == pytest.approx(7 / 35)  # since the processes started
    assert progress.remaining == pytest.approx(5 / (7 / 35))
    for fact in ("2 of 3 shards", "7 of 12 images", "0.2 images/s", "0:00:25", "rank 2"):
        assert fact in str(progress)
    assert measure_progress(unfinished).made == ()


def test_the_rate_is_that_of_the_last_half_hour(unfinished: Path) -> None:
    os.utime(unfinished / "unfinished.json", (0, 0))
    for number, time in ((0, 100), (1, 100_000), (2, 101_000)):
        os.utime(unfinished / f"shard-{number:05d}.safetensors", (time, time))
    assert measure_progress(unfinished).rate == pytest.approx(7 / 1800)


@pytest.mark.parametrize("function", [finish_set, measure_progress])
def test_where_there_is_no_set(tmp_path: Path, function: object) -> None:
    with pytest.raises(FormatError, match=r"unfinished\.json"):
        function(tmp_path)  # type: ignore[operator]
    assert not list(tmp_path.iterdir())
