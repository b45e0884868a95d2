"""``dr-plugins statistics``, and other commands where its file lies in the directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dr_plugins.cli.main import main
from dr_plugins.shards.reader import ShardSet
from dr_plugins.statistics import compute_statistics, open_statistics
from tests.tiny import content, make_set


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.fixture
def directory(shard_sets: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(shard_sets("randaug"), tmp_path / "set"))


def test_it_prints_means_and_confused_classes_by_name(directory: Path) -> None:
    found = json.loads(run("statistics", directory, "--json", "--quiet").stdout)
    statistics = compute_statistics(ShardSet(directory))
    assert found["images"] == len(statistics)
    assert found["agreement"] == pytest.approx(statistics.agreement.mean())
    assert {entry["label"] for entry in found["confused"]} <= {"n01", "n02", "n03"}
    text = run("statistics", directory, "--quiet").stdout
    assert f"{found['confidence']:.4f}" in text
    assert found["confused"][0]["answer"] in text


def test_other_commands_neither_mind_nor_copy_its_file(
    directory: Path, photographs: Path, tmp_path: Path
) -> None:
    open_statistics(ShardSet(directory))
    before = content(directory)
    run("verify", directory)
    run("info", directory)
    run("subset", directory, "--samples", 2, "--out", tmp_path / "subset", "--quiet")
    run("split", directory, "--parts", 2, "--out", tmp_path / "parts", "--quiet")
    parts = [tmp_path / "parts" / f"part-0000{i}" for i in range(2)]
    open_statistics(ShardSet(parts[0]))
    run("merge", *parts, "--out", tmp_path / "merged", "--quiet")
    for made in ("subset", "merged"):
        assert not (tmp_path / made / "statistics.npz").exists()
    assert content(directory) == before


def test_resuming_generation_keeps_a_set_with_its_file(photographs: Path, tmp_path: Path) -> None:
    directory = make_set(tmp_path / "set", photographs)
    open_statistics(ShardSet(directory))
    before = content(directory)
    (directory / "shard-00001.safetensors").unlink()
    make_set(directory, photographs)  # made again, with the same content
    assert content(directory) == before
    assert compute_statistics(ShardSet(directory)).top_probs.tolist() == (
        open_statistics(ShardSet(directory)).top_probs.tolist()
    )
