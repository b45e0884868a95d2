"""Merged sets hold what their parts hold, and replay as they do."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from torchvision.datasets import ImageFolder

from dr_plugins import merge, split, subset
from dr_plugins.cli.main import main
from dr_plugins.errors import (
    DatasetMismatchError,
    FormatError,
    ImageChangedError,
    OutputError,
    SettingsMismatchError,
    UnknownImageError,
)
from dr_plugins.generation.unfinished import measure_progress
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import Policy
from dr_plugins.replay.replayer import Replayer
from dr_plugins.shards.output import OutputDirectory
from dr_plugins.shards.reader import ShardSet
from dr_plugins.tools.verify import verify
from tests.data import make_golden
from tests.data.make_golden import HERE, answer_all, params_all, write_set
from tests.tiny import TinyTeacher, content, files, make_set, policy

Sets = Callable[..., Path]
FIRST = ["n01", "n03"]  # folders of the first part; keys of both parts alternate


def part(photographs: Path, first: bool) -> ImageSource:
    source = ImageSource(ImageFolder(str(photographs)))
    return source.without([key for key in source.keys if (key[:3] in FIRST) != first])


def views(directory: Path, source: ImageSource) -> dict[tuple[str, int], bytes]:
    """The pixels of every view of a set."""
    shards = ShardSet(directory)
    replayer = Replayer(source, shards)
    pixels = {}
    for index, key in enumerate(replayer.source.keys):
        for sample in range(shards.manifest.samples):
            (params,) = replayer.policy.decode(np.array([shards[key, sample]]))
            pixels[key, sample] = replayer.view(index, params)[0].numpy().tobytes()
    return pixels


def same_apart_from_checksums(one: ShardSet, other: ShardSet) -> bool:
    size = one.manifest.layout.itemsize
    pairs = [(one.shard(n), other.shard(n)) for n in range(len(one.manifest.shards))]
    return (
        len(one.manifest.shards) == len(other.manifest.shards)
        and all(
            (getattr(a, name) == getattr(b, name)).all()
            for a, b in pairs
            for name in ("labels", "sizes", "fingerprints")
        )
        and all(
            a.records.view(np.uint8).reshape(-1, size)[:, :-4].tobytes()
            == b.records.view(np.uint8).reshape(-1, size)[:, :-4].tobytes()
            for a, b in pairs
        )
    )


def test_other_images_equal_generating_all_at_once(
    tmp_path: Path, photographs: Path, shard_sets: Sets
) -> None:
    first = make_set(tmp_path / "first", part(photographs, True))
    second = make_set(tmp_path / "second", part(photographs, False))
    merged = merge([first, second], tmp_path / "merged")
    assert content(tmp_path / "merged") == content(shard_sets())
    direct = ShardSet(shard_sets()).manifest
    assert merged.index == direct.index
    assert {k: v for k, v in merged.settings.items() if k != "history"} == direct.settings
    report = verify(tmp_path / "merged", ImageSource(ImageFolder(str(photographs))), replay=12)
    assert (report.problems, report.replayed) == ([], 12)


@pytest.mark.parametrize("name", ["randaug", "randaug_mixing"])
def test_more_views_replay_as_in_their_sets(
    tmp_path: Path, photographs: Path, shard_sets: Sets, name: str
) -> None:
    other = make_set(tmp_path / "other", photographs, policy_=policy(name), seed=1, samples=3)
    merged = merge([other, shard_sets(name)], tmp_path / "merged")
    assert (merged.samples, merged.settings["seed"]) == (9, None)
    source = ImageSource(ImageFolder(str(photographs)))
    expected = views(other, source)
    for (key, sample), pixels in views(shard_sets(name), source).items():
        expected[key, sample + 3] = pixels
    assert views(tmp_path / "merged", source) == expected
    report = verify(tmp_path / "merged", source, replay=12)
    assert (report.problems, report.replayed) == ([], 12)


def test_partners_are_found_under_their_new_rows(tmp_path: Path, photographs: Path) -> None:
    mixing = policy("randaug_mixing")
    sources = [part(photographs, True), part(photographs, False)]
    parts = [
        make_set(tmp_path / str(n), source, policy_=mixing) for n, source in enumerate(sources)
    ]
    merge(parts, tmp_path / "merged")
    expected = {**views(parts[0], sources[0]), **views(parts[1], sources[1])}
    whole = ImageSource(ImageFolder(str(photographs)))
    assert views(tmp_path / "merged", whole) == expected
    assert verify(tmp_path / "merged", whole, replay=12).problems == []


def test_a_grid_of_images_and_seeds(tmp_path: Path, photographs: Path) -> None:
    parts = [
        make_set(tmp_path / f"{first}{seed}", part(photographs, first), seed=seed, samples=2)
        for seed in (0, 1)
        for first in (True, False)
    ]
    merge(parts, tmp_path / "merged")
    whole = [make_set(tmp_path / f"{seed}", photographs, seed=seed, samples=2) for seed in (0, 1)]
    merge(whole, tmp_path / "expected")
    assert content(tmp_path / "merged") == content(tmp_path / "expected")


@pytest.mark.parametrize("parts", [1, 5, 12])
def test_the_parts_of_a_split_are_the_whole(tmp_path: Path, shard_sets: Sets, parts: int) -> None:
    manifests = split(shard_sets(), tmp_path / "parts", parts=parts)
    assert [m.index.images for m in manifests] == [len(p) for p in np.array_split(range(12), parts)]
    assert len({m.set_id for m in manifests}) == parts
    directories = sorted((tmp_path / "parts").iterdir())
    joined = {}
    for directory in directories:
        assert verify(directory).problems == []
        joined.update(content(directory))
    assert joined == content(shard_sets())
    if parts > 1:
        merge(directories[::-1], tmp_path / "merged")
        assert same_apart_from_checksums(ShardSet(tmp_path / "merged"), ShardSet(shard_sets()))


def test_a_split_by_keys(tmp_path: Path, shard_sets: Sets) -> None:
    whole = content(shard_sets())
    keys = list(whole)[1:8:3]
    split(shard_sets(), tmp_path, keys=keys)
    assert list(ShardSet(tmp_path / "part-00000").keys) == keys
    assert set(ShardSet(tmp_path / "part-00001").keys) == set(whole) - set(keys)
    with pytest.raises(UnknownImageError, match="n09"):
        split(shard_sets(), tmp_path / "unknown", keys=["n09"])
    with pytest.raises(SettingsMismatchError, match="12"):
        split(shard_sets(), tmp_path / "empty", keys=list(whole))
    with pytest.raises(SettingsMismatchError, match="12"):
        split(shard_sets(), tmp_path / "many", parts=13)
    with pytest.raises(ValueError, match="parts"):
        split(shard_sets(), tmp_path / "neither")


def other_view(row: int, sample: int) -> list[object]:
    """Not one that `make_golden.view` returns."""
    return [(sample, row, 9, 9), 1, (0, 0), (0, 0, 0, 0)]


def set_of(out: Path, **options: Any) -> Path:
    """A golden set, or a variant of it."""
    name = options.pop("policy", "randaug_mixing")
    settings = {"samples": 3, "num_classes": 1000, **options}
    return write_set(out, policy(name), params_all, answer_all, **settings)


def changed(out: Path, **settings: Any) -> Path:
    """The golden set with other entries in its settings: what a generation would have written."""
    original = make_golden.OutputDirectory

    def with_settings(directory: Any, old: dict[str, Any], *args: Any) -> Any:
        return original(directory, {**old, **settings}, *args)

    make_golden.OutputDirectory = with_settings  # type: ignore[assignment,misc]
    try:
        return set_of(out)
    finally:
        make_golden.OutputDirectory = original  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"temperature": 2.0}, ["temperature", "1.0", "2.0"]),
        ({"teachers": ["timm:resnet50"]}, ["teachers", "resnet50", "python:made:up"]),
        ({"weights": "f" * 16}, ["weights", "f" * 16, "0123456789abcdef"]),
        ({"precision": "bfloat16"}, ["precision", "bfloat16", "float32"]),
        ({"compiled": True}, ["compiled", "True", "None"]),
    ],
)
def test_sets_of_other_settings(tmp_path: Path, settings: Any, facts: list[str]) -> None:
    one, other = set_of(tmp_path / "one"), changed(tmp_path / "other", **settings)
    with pytest.raises(SettingsMismatchError) as caught:
        merge([one, other], tmp_path / "out")
    assert all(fact in str(caught.value) for fact in [str(one), str(other), *facts])
    assert not (tmp_path / "out").exists()


def test_sets_of_other_classes(tmp_path: Path) -> None:
    names = [f"n{i}" for i in range(1000)]
    one = changed(tmp_path / "one", class_names=names)
    swapped = changed(tmp_path / "two", class_names=[names[1], names[0], *names[2:]])
    with pytest.raises(SettingsMismatchError, match=r"class 0.*'n0'.*'n1'"):
        merge([one, swapped], tmp_path / "out")
    renamed = changed(tmp_path / "three", class_names=[*names[:-1], "x"])
    with pytest.raises(SettingsMismatchError, match=r"1000 and 1000.*'n999'"):
        merge([one, renamed], tmp_path / "out")


def test_sets_of_another_policy_or_k(tmp_path: Path, photographs: Path, shard_sets: Sets) -> None:
    other = make_set(tmp_path / "size", photographs, policy_=policy(size=20), seed=1)
    with pytest.raises(SettingsMismatchError, match=r"random_resized_crop.*24.*20"):
        merge([shard_sets(), other], tmp_path / "out")
    other = make_set(tmp_path / "k", photographs, topk=1, seed=1)
    with pytest.raises(SettingsMismatchError, match=r"topk.*2.*1.*--topk 1"):
        merge([shard_sets(), other], tmp_path / "out")
    other = make_set(tmp_path / "teacher", photographs, teacher=TinyTeacher(seed=1), seed=1)
    with pytest.raises(SettingsMismatchError, match="weights"):
        merge([shard_sets(), other], tmp_path / "out")
    with pytest.raises(SettingsMismatchError, match="two"):
        merge([shard_sets()], tmp_path / "out")


@pytest.mark.parametrize("name", ["randaug", "randaug_mixing"])
def test_the_same_views(tmp_path: Path, photographs: Path, shard_sets: Sets, name: str) -> None:
    whole = shard_sets(name)
    subset(whole, tmp_path / "few", samples=2)
    another = make_set(tmp_path / "another", photographs, policy_=policy(name), seed=1)
    merge([another, whole], tmp_path / "both")
    for sets in [[whole, whole], [whole, tmp_path / "few"], [tmp_path / "both", whole]]:
        with pytest.raises(SettingsMismatchError, match="same views") as caught:
            merge(sets, tmp_path / "out")
        assert all(str(one) in str(caught.value) for one in sets)
        assert not (tmp_path / "out").exists()
    with pytest.raises(SettingsMismatchError, match="sample 6 of the first is sample 0 of"):
        merge([tmp_path / "both", whole], tmp_path / "out2")
    third = make_set(tmp_path / "third", photographs, policy_=policy(name), seed=2, samples=1)
    merge([third, whole], tmp_path / "third and whole")
    with pytest.raises(SettingsMismatchError, match="sample 6 of the first is sample 1 of"):
        merge([tmp_path / "both", tmp_path / "third and whole"], tmp_path / "out2")


def test_the_same_views_of_some_images(tmp_path: Path, photographs: Path, shard_sets: Sets) -> None:
    halves = [
        make_set(tmp_path / str(first), part(photographs, first), seed=seed)
        for first, seed in ((True, 0), (False, 1))
    ]
    merge(halves, tmp_path / "mixed")
    with pytest.raises(SettingsMismatchError, match="same views"):
        merge([shard_sets(), tmp_path / "mixed"], tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_equal_draws_by_chance(tmp_path: Path, photographs: Path) -> None:
    """Of 162 crops and flips, 40 samples of an image share some; the last shard has one image."""
    few = Policy.from_config(
        {
            "resize": {"size": 24},
            "random_crop": {"size": 24, "padding": 4},
            "random_horizontal_flip": {},
        }
    )
    sets = [
        make_set(
            tmp_path / str(seed), photographs, policy_=few, samples=40, seed=seed, shard_images=11
        )
        for seed in (0, 1)
    ]
    assert merge(sets, tmp_path / "merged").samples == 80


def test_the_progress_of_a_merge_of_other_shards(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [
        make_set(tmp_path / str(size), photographs, samples=2, seed=size, shard_images=size)
        for size in (3, 5)
    ]
    with monkeypatch.context() as patched:
        patched.setattr(OutputDirectory, "finish", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            merge(sets, tmp_path / "out")
    progress = measure_progress(tmp_path / "out")
    assert (progress.stored, progress.shards, progress.images) == (3, 3, 12)
    assert merge(sets, tmp_path / "out").settings["shard_images"] == 5


def test_the_seed_of_consecutive_samples_alone(tmp_path: Path, photographs: Path) -> None:
    sets = [make_set(tmp_path / str(n), photographs, samples=1, first_sample=n) for n in range(3)]
    facts = {(0, 1): (0, None), (1, 2): (0, 1), (0, 2): (None, None), (1, 0): (None, None)}
    for order, expected in facts.items():
        settings = merge([sets[n] for n in order], tmp_path / f"merged {order}").settings
        assert (settings["seed"], settings.get("first_sample")) == expected


def test_remote_outputs(tmp_path: Path, shard_sets: Sets) -> None:
    for make in (split, subset):
        with pytest.raises(OutputError, match="dr-plugins push"):
            make(shard_sets(), "memory://sets", **({"parts": 2} if make is split else {"topk": 1}))
    command = ["subset", str(shard_sets()), "--topk", "1", "--out", "s3://bucket/set"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert "dr-plugins push" in result.output


def test_sets_that_share_some_images(tmp_path: Path, photographs: Path, shard_sets: Sets) -> None:
    some = make_set(tmp_path / "some", part(photographs, True), seed=1)
    with pytest.raises(SettingsMismatchError, match=r"n01/.*12 and 8"):
        merge([shard_sets(), some], tmp_path / "out")
    few = make_set(tmp_path / "few", part(photographs, False), seed=1, samples=2)
    with pytest.raises(SettingsMismatchError, match=r"6.*2 of other images"):
        merge([some, few], tmp_path / "out")


def test_images_with_other_facts(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = set_of(tmp_path / "one")
    monkeypatch.setattr(make_golden, "view", other_view)
    monkeypatch.setattr(make_golden, "fact", lambda row: (row + 1, (0, 0), 0))
    labels = set_of(tmp_path / "labels", seed=1)
    with pytest.raises(DatasetMismatchError, match=r"n01/b_10.*0 and 1"):
        merge([one, labels], tmp_path / "out")
    monkeypatch.setattr(make_golden, "fact", lambda row: (-1, (400, 500), 0))
    sizes = set_of(tmp_path / "sizes", seed=1)
    with pytest.raises(ImageChangedError, match=r"n01/b_2.*401x500 and 400x500"):
        merge([one, sizes], tmp_path / "out2")


def test_facts_come_from_the_set_that_knows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = set_of(tmp_path / "one")  # knows nothing of its last image
    monkeypatch.setattr(
        make_golden, "fact", lambda row: (5, (7, 8), 9) if row == 2 else (-1, (0, 0), 0)
    )
    monkeypatch.setattr(
        make_golden, "view", lambda row, sample: [(9, 9, 9, 9), 0, (0, 0), (0,) * 4]
    )
    other = set_of(tmp_path / "other", seed=1)
    merge([one, other], tmp_path / "out")
    shards = ShardSet(tmp_path / "out")
    assert shards.image(0) == (0, (400, 500), b"\x11" * 8, 0)
    assert shards.image(1) == (1, (401, 500), b"\x22" * 8, 1)
    assert shards.image(2) == (5, (7, 8), b"\x09" * 8, 3 + 2)
    again = merge([other, one], tmp_path / "again")
    assert again.set_id != shards.manifest.set_id


def test_versions_and_left_out_images_of_all_sets(tmp_path: Path, photographs: Path) -> None:
    keys = ImageSource(ImageFolder(str(photographs))).keys
    first = make_set(tmp_path / "first", photographs, left_out=keys[:2])
    found = part(photographs, True)
    second = make_set(
        tmp_path / "second",
        found.without([key for key in found.keys if key not in keys[:1]]),
    )
    merged = merge([first, second], tmp_path / "merged")
    assert merged.left_out == [keys[1]]
    assert merged.versions == ShardSet(first).manifest.versions


def test_merging_nothing_twice_is_associative(tmp_path: Path, photographs: Path) -> None:
    sets = [make_set(tmp_path / str(seed), photographs, seed=seed, samples=2) for seed in range(3)]
    merge(sets, tmp_path / "at once")
    merge(sets[:2], tmp_path / "two")
    merge([tmp_path / "two", sets[2]], tmp_path / "stepwise")
    assert content(tmp_path / "at once") == content(tmp_path / "stepwise")
    subset(tmp_path / "stepwise", tmp_path / "back", samples=2)
    assert content(tmp_path / "back") == content(sets[0])


def test_a_damaged_part(tmp_path: Path, shard_sets: Sets) -> None:
    split(shard_sets(), tmp_path / "parts", parts=2)
    parts = sorted((tmp_path / "parts").iterdir())
    file = parts[1] / "shard-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-20] ^= 8
    file.write_bytes(data)
    with pytest.raises(FormatError, match=r"part-00001.*n03"):
        merge(parts, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


KILLED = """
import os, signal, sys
from dr_plugins.shards.output import OutputDirectory
from dr_plugins.tools.merge import merge
out, *sets = sys.argv[1:]
add = OutputDirectory.add
def add_and_die(self, number, shard):
    add(self, number, shard)
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
OutputDirectory.add = add_and_die
merge(sets, out)
"""


def test_a_killed_run_continues(tmp_path: Path, photographs: Path, shard_sets: Sets) -> None:
    sets = [shard_sets(), make_set(tmp_path / "other", photographs, seed=1)]
    merge(sets, tmp_path / "at once")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), *map(str, sets)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    with pytest.raises(SettingsMismatchError):
        merge(sets[::-1], tmp_path / "killed")
    merge(sets, tmp_path / "killed")
    assert files(tmp_path / "killed") == files(tmp_path / "at once")


def test_commands(tmp_path: Path, shard_sets: Sets) -> None:
    runner, parts, out = CliRunner(), tmp_path / "parts", tmp_path / "out"
    command = ["split", str(shard_sets()), "--out", str(parts), "--quiet"]
    assert runner.invoke(main, command).exit_code == 2
    result = runner.invoke(main, [*command, "--parts", "2"])
    assert result.exit_code == 0, result.output
    sets = [str(parts / f"part-0000{n}") for n in range(2)]
    result = runner.invoke(main, ["merge", *sets, "--out", str(out), "--quiet"])
    assert result.exit_code == 0, result.output
    assert content(out) == content(shard_sets())
    result = runner.invoke(main, ["info", str(out)])
    assert "merge" in result.output
    assert "split, part 2/2" in result.output
    result = runner.invoke(main, ["merge", sets[0], sets[0], "--out", str(tmp_path / "no")])
    assert result.exit_code == 1
    assert "same views" in result.output


def test_golden_sets(tmp_path: Path) -> None:
    split(HERE / "golden-crop", tmp_path / "parts", parts=3)
    merge(sorted((tmp_path / "parts").iterdir()), tmp_path / "merged")
    assert same_apart_from_checksums(ShardSet(tmp_path / "merged"), ShardSet(HERE / "golden-crop"))
