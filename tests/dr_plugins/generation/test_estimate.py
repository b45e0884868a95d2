from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from dr_plugins.cli.main import main
from dr_plugins.generation import Ensemble, GenerationSettings, reinforce
from dr_plugins.generation.estimate import estimate
from dr_plugins.images.sources import open_source
from tests.tiny import TinyTeacher, make_photographs, policy


@pytest.mark.parametrize("shard_images", [4, 5, 20])
def test_size_is_that_of_the_finished_set(tmp_path: Path, shard_images: int) -> None:
    source = open_source(str(make_photographs(tmp_path / "images")))
    settings = GenerationSettings(
        policy(), samples=6, topk=2, batch_size=16, shard_images=shard_images
    )
    found = estimate(source, Ensemble([TinyTeacher()]), settings, seconds=0)
    reinforce(source, Ensemble([TinyTeacher()]), tmp_path / "set", settings, min_agreement=0)
    files = [file for file in (tmp_path / "set").iterdir() if file.name != ".lock"]
    assert found.files == len(files)
    assert found.bytes == sum(f.stat().st_size for f in files if f.suffix == ".safetensors")
    assert (found.images, found.samples, found.device) == (12, 6, "cpu")


def test_time_grows_with_the_views(tmp_path: Path) -> None:
    source = open_source(str(make_photographs(tmp_path / "images")))
    settings = GenerationSettings(policy(), samples=10, topk=2, batch_size=4)
    found = estimate(source, Ensemble([TinyTeacher()]), settings, seconds=0)
    assert found.timed_views == 8 * 4  # after two batches that are not timed
    assert found.device_hours == pytest.approx(120 / 32 * found.seconds / 3600)


def test_command_makes_nothing(tmp_path: Path) -> None:
    images, out = make_photographs(tmp_path / "images"), tmp_path / "set"
    command = ["reinforce", "--images", str(images), "--teacher", "python:tests.tiny:build_teacher"]
    command += [
        "--size",
        "24",
        "--samples",
        "2",
        "--topk",
        "2",
        "--workers",
        "0",
        "--out",
        str(out),
    ]
    result = CliRunner().invoke(main, [*command, "--device", "cpu", "--estimate"])
    assert result.exit_code == 0, result.output
    assert "24 views" in result.output
    assert "cpu-hours" in result.output
    assert "3 files" in result.output
    assert not out.exists()
    damaged = sorted(images.rglob("*.JPEG"))[0]
    damaged.write_bytes(b"no image")
    (tmp_path / "skip.txt").write_text(f"{damaged.relative_to(images)}\n")
    skipping = ["--skip-unreadable", str(tmp_path / "skip.txt"), "--estimate"]
    result = CliRunner().invoke(main, [*command, "--device", "cpu", *skipping])
    assert result.exit_code == 0, result.output
    assert "22 views" in result.output
