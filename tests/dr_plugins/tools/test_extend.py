"""Extending a set equals generating the larger one at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn
from torchvision.datasets import ImageFolder

from dr_plugins import extend, merge
from dr_plugins.cli.main import main
from dr_plugins.errors import (
    DatasetMismatchError,
    ImageChangedError,
    SettingsMismatchError,
    TeacherError,
)
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import ImageSource
from dr_plugins.shards.reader import ShardSet
from dr_plugins.tools import extend as extend_module
from dr_plugins.tools.verify import verify
from tests.data.make_golden import HERE
from tests.dr_plugins.generation.whole_sets import Counting, interrupt
from tests.tiny import TinyTeacher, content, files, make_photographs, make_set, policy

Sets = Callable[..., Path]


def source_of(photographs: Path, leave_out: int = 0) -> ImageSource:
    """All images but some that are spread over the classes."""
    source = ImageSource(ImageFolder(str(photographs)))
    return source.without(source.keys[1::4][:leave_out])


def grown(directory: Path, photographs: Path, out: Path, **options: Any) -> Path:
    teacher = options.pop("teacher", TinyTeacher())
    extend(directory, source_of(photographs), Ensemble([teacher]), out, **options)
    return out


@pytest.mark.parametrize("name", ["randaug", "randaug_mixing"])
def test_more_reinforcements(
    tmp_path: Path, photographs: Path, shard_sets: Sets, name: str
) -> None:
    few = make_set(tmp_path / "few", photographs, policy_=policy(name), samples=4)
    out = grown(few, photographs, tmp_path / "out", samples=6)
    assert content(out) == content(shard_sets(name))
    assert not (out / ".parts").exists()
    manifest = ShardSet(out).manifest
    expected = ShardSet(shard_sets(name)).manifest.settings
    assert {k: v for k, v in manifest.settings.items() if k != "history"} == expected
    assert verify(out, source_of(photographs), replay=12).problems == []


def test_more_images_and_reinforcements(
    tmp_path: Path, photographs: Path, shard_sets: Sets
) -> None:
    some = make_set(tmp_path / "some", source_of(photographs, 3), samples=5)
    images = grown(some, photographs, tmp_path / "images")
    assert content(images) == content(make_set(tmp_path / "five", photographs, samples=5))
    both = grown(some, photographs, tmp_path / "both", samples=6)
    assert content(both) == content(shard_sets())
    assert verify(both, source_of(photographs), replay=12).replayed == 12
    stepwise = grown(images, photographs, tmp_path / "stepwise", samples=6)
    assert content(stepwise) == content(shard_sets())


def test_jobs_of_consecutive_samples(tmp_path: Path, photographs: Path, shard_sets: Sets) -> None:
    jobs = [
        make_set(tmp_path / str(first), photographs, samples=2, first_sample=first)
        for first in (0, 2, 4)
    ]
    assert len({ShardSet(job).manifest.set_id for job in jobs}) == 3
    merge(jobs, tmp_path / "merged")
    assert content(tmp_path / "merged") == content(shard_sets())
    later = grown(jobs[1], photographs, tmp_path / "later", samples=4)
    merge(jobs[1:], tmp_path / "both")
    assert content(later) == content(tmp_path / "both")
    assert ShardSet(later).manifest.settings["first_sample"] == 2


def test_a_stopped_run_continues(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = make_set(tmp_path / "some", source_of(photographs, 3), samples=4)
    expected = files(grown(some, photographs, tmp_path / "at once", samples=6))

    out = tmp_path / "out"
    for call in (2, 6):  # while planning, and while generating
        with pytest.raises(KeyboardInterrupt):
            grown(some, photographs, out, samples=6, teacher=Counting(call, interrupt))
    monkeypatch.setattr(extend_module, "merge", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        grown(some, photographs, out, samples=6)
    monkeypatch.undo()
    grown(some, photographs, out, samples=6)
    assert files(out) == expected
    grown(some, photographs, out, samples=6, teacher=TinyTeacher())  # nothing is left to do
    assert files(out) == expected
    with pytest.raises(SettingsMismatchError, match="another set"):
        grown(some, photographs, out, samples=7)
    (out / "shard-00001.safetensors").unlink()
    grown(some, photographs, out, samples=6)
    assert files(out) == expected


def test_what_does_not_fit(tmp_path: Path, photographs: Path, shard_sets: Sets) -> None:
    out, whole = tmp_path / "out", shard_sets()
    with pytest.raises(SettingsMismatchError, match="nothing to add"):
        grown(whole, photographs, out)
    with pytest.raises(SettingsMismatchError, match=r"5.*6.*subset"):
        grown(whole, photographs, out, samples=5)
    with pytest.raises(SettingsMismatchError, match="weights"):
        grown(whole, photographs, out, samples=7, teacher=TinyTeacher(seed=1))
    with pytest.raises(DatasetMismatchError, match="n01/"):
        extend(whole, source_of(photographs, 1), Ensemble([TinyTeacher()]), out, samples=7)
    with pytest.raises(SettingsMismatchError, match=r"temperature.*1\.0.*2\.0"):
        extend(whole, source_of(photographs), Ensemble([TinyTeacher()], 2.0), out, samples=7)
    with pytest.raises((DatasetMismatchError, TeacherError)):
        grown(whole, photographs, out, samples=7, teacher=TinyTeacher(num_classes=4))
    mixed = tmp_path / "mixed"
    merge([whole, make_set(tmp_path / "other", photographs, seed=1)], mixed)
    with pytest.raises(SettingsMismatchError, match="seed"):
        grown(mixed, photographs, out, samples=20)
    assert not out.exists()


def test_changed_images(tmp_path: Path) -> None:
    images = make_photographs(tmp_path / "train")
    few = make_set(tmp_path / "few", images, samples=2)
    file = sorted(images.rglob("*.JPEG"))[5]
    picture = Image.open(file)
    Image.new("RGB", picture.size).save(file)
    with pytest.raises(ImageChangedError, match=file.name):
        grown(few, images, tmp_path / "out", samples=3)


def test_images_under_other_names(tmp_path: Path) -> None:
    """A copy from the Hub, whose first image is new, of a set with ImageNet's own names."""
    images = make_photographs(tmp_path / "train", 2, ["n00000001", "n00000002"])
    own = make_set(tmp_path / "own", images, samples=2, teacher=TinyTeacher(2))
    for file in list(images.rglob("*.JPEG")):
        file.rename(file.with_name(f"{file.stem}_{file.parent.name}.JPEG"))
    first = images / "n00000001" / "n00000001_1_n00000001.JPEG"
    Image.new("RGB", (30, 40)).save(first)
    out = grown(own, images, tmp_path / "out", teacher=TinyTeacher(2))
    added = "n00000001/n00000001_1.JPEG"
    assert list(ShardSet(out).keys) == sorted([*ShardSet(own).keys, added])


def test_new_images_alone_follow_the_key_rule_that_is_given(tmp_path: Path) -> None:
    runner, keys = CliRunner(), ["--keys", "imagenet", "--workers", "0", "--quiet"]
    own = make_photographs(tmp_path / "own", 2, ["n00000001", "n00000002", "n00000003"])
    made = ["--teacher", "python:tests.tiny:build_teacher", "--samples", "2", "--topk", "2"]
    small = [*made, "--size", "24", "--min-agreement", "0", "--out", str(tmp_path / "set")]
    result = runner.invoke(main, ["reinforce", "--images", str(own), *keys, *small])
    assert result.exit_code == 0, result.output
    more = make_photographs(tmp_path / "more", 1, ["n00000001", "n00000002", "n00000003"])
    for file in list(more.rglob("*.JPEG")):
        file.rename(file.with_name(f"{file.parent.name}_5_{file.parent.name}.JPEG"))
    command = ["extend", str(tmp_path / "set"), "--images", str(more), *keys]
    result = runner.invoke(main, [*command, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    added = [f"n0000000{n}/n0000000{n}_5.JPEG" for n in (1, 2, 3)]
    stored = ShardSet(tmp_path / "set").keys
    assert list(ShardSet(tmp_path / "out").keys) == sorted([*stored, *added])


def test_golden_sets_have_no_images(tmp_path: Path, photographs: Path) -> None:
    class Wide(nn.Module):
        def forward(self, views: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(views), 65537)

    with pytest.raises((SettingsMismatchError, DatasetMismatchError)):
        grown(HERE / "golden-crop", photographs, tmp_path / "out", samples=3, teacher=Wide())


def test_command(tmp_path: Path, photographs: Path) -> None:
    runner, teacher = CliRunner(), "python:tests.tiny:build_teacher"
    options = ["--images", str(photographs), "--workers", "0", "--quiet"]
    made = ["--teacher", teacher, "--size", "24", "--topk", "2", "--min-agreement", "0"]
    for name, samples in (("few", "2"), ("many", "3")):
        out = ["--out", str(tmp_path / name), "--samples", samples]
        result = runner.invoke(main, ["reinforce", *options, *made, *out])
        assert result.exit_code == 0, result.output
    command = ["extend", str(tmp_path / "few"), *options, "--out", str(tmp_path / "out")]
    result = runner.invoke(main, command)
    assert result.exit_code == 1
    assert "nothing to add" in result.output
    result = runner.invoke(main, [*command, "--samples", "3"])
    assert result.exit_code == 0, result.output
    assert content(tmp_path / "out") == content(tmp_path / "many")
