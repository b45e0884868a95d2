from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from dr_plugins.errors import FormatError
from dr_plugins.generation.agreement import label_agreement
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import Policy
from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.shards.manifest import library_versions
from dr_plugins.shards.reader import ShardSet
from dr_plugins.tools.describe import describe
from tests.data.make_golden import HERE, params_all, write_set
from tests.tiny import make_set

GOLDEN = HERE / "golden-all"


def lines(shards: ShardSet) -> dict[str, str]:
    """First line of each entry by its name."""
    pairs = (line.split("  ", 1) for line in describe(shards).splitlines() if line[0] != " ")
    return {name: text.strip() for name, text in pairs}


def test_what_a_person_reads() -> None:
    told = lines(ShardSet(GOLDEN))
    size = sum(p.stat().st_size for p in GOLDEN.glob("*.safetensors"))
    assert told["images"] == "3, each with 18 reinforcements"
    assert told["keys"] == "n01/b_10.JPEG, n01/b_2.JPEG, n02/ü.JPEG"
    assert told["classes"] == "1,000, the top 2 stored"
    assert told["class names"] == "unknown"
    assert told["views"] == "24x24 pixels, backend pil"
    assert told["record"].startswith("70 bytes: crop, flip, ops, erase, partner, partner_crop, ")
    assert told["on disk"] == f"{size:,} bytes in 3 files, {size / 54:.1f} per record"
    assert told["teachers"] == "python:made:up"
    assert told["set id"] == ShardSet(GOLDEN).manifest.set_id
    assert "\n             rand_augment: " in describe(ShardSet(GOLDEN))


def test_a_made_set(shard_sets: Callable[..., Path]) -> None:
    told = lines(ShardSet(shard_sets()))
    assert told["keys"].endswith(", ...")
    assert told["class names"] == "n01, n02, n03"
    assert told["teachers"] == "not named"
    assert f"torch {library_versions()['torch']}" in told["made with"]


def test_images_that_were_left_out(tmp_path: Path, photographs: Path) -> None:
    own = make_set(tmp_path / "set", photographs, left_out=["n01/n01_2.JPEG"])
    assert lines(ShardSet(own))["images"] == "11, each with 6 reinforcements; 1 were left out"


def test_missing_files_are_told(tmp_path: Path) -> None:
    own = shutil.copytree(GOLDEN, tmp_path / "own")
    (own / "shard-00001.safetensors").unlink()
    told = lines(ShardSet(own))
    assert told["on disk"] == "1 of 3 files are missing, such as shard-00001.safetensors"
    (own / "shard-00000.safetensors").unlink()
    with pytest.raises(FormatError, match=r"shard-00000\.safetensors: No such file"):
        describe(ShardSet(own))


def agreement(shards: ShardSet, number: int = 0) -> float | None:
    labels = np.array([shards.image(row).label for row in shards.rows(number)])
    return label_agreement(stored_policy(shards), shards.records(number), labels)


@pytest.mark.parametrize("name", ["randaug", "randaug_mixing"])
def test_agreement_counts_unmixed_views(shard_sets: Callable[..., Path], name: str) -> None:
    shards = ShardSet(shard_sets(name))
    hits, count = 0, 0
    for row in shards.rows(1):
        for sample in range(6):
            record = shards[row, sample]
            if name == "randaug" or record["partner"] == 2**32 - 1:
                hits += int(record["ids"][0] == shards.image(row).label)
                count += 1
    assert count > 0
    assert agreement(shards, 1) == pytest.approx(hits / count)


def test_agreement_is_unknown_without_labels(tmp_path: Path, photographs: Path) -> None:
    folder = ImageFolder(str(photographs))
    unlabelled = [(folder[i][0], None) for i in range(2)]
    shards = ShardSet(make_set(tmp_path / "s", ImageSource(unlabelled, keys=["a", "b"])))
    assert agreement(shards) is None
    assert lines(shards)["agreement"] == "unknown"


def test_agreement_of_teachers_that_know_nothing_and_half(tmp_path: Path) -> None:
    policy = Policy.load("randaug_mixing", size=24)
    for name, top, expected in (("none", 7, 0.0), ("half", 1, 0.5)):  # the labels are 0 and 1
        out = write_set(
            tmp_path / name,
            policy,
            params_all,
            lambda row, sample, top=top: ((top,), (1.0,)),
            samples=3,
            num_classes=9,
        )
        assert agreement(ShardSet(out)) == expected
