"""A subset holds exactly what generating the smaller set stores."""

from __future__ import annotations

import json
import os
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

from dr_plugins import describe, subset
from dr_plugins.cli.main import main
from dr_plugins.errors import (
    DatasetMismatchError,
    FormatError,
    SettingsMismatchError,
    UnknownImageError,
)
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import AugmentParams
from dr_plugins.replay.replayer import Replayer
from dr_plugins.shards.manifest import settings_digest
from dr_plugins.shards.reader import ShardSet
from dr_plugins.tools.verify import verify
from tests.data.make_golden import HERE, answer_all, params_all, write_set
from tests.tiny import content, files, make_set, policy

Sets = Callable[..., Path]


@pytest.mark.parametrize("name", ["randaug", "randaug_mixing"])
@pytest.mark.parametrize(("samples", "topk"), [(2, 2), (6, 1), (4, 1), (6, 2)])
def test_equals_generating_with_fewer(
    tmp_path: Path, photographs: Path, shard_sets: Sets, name: str, samples: int, topk: int
) -> None:
    direct = make_set(
        tmp_path / "direct", photographs, policy_=policy(name), samples=samples, topk=topk
    )
    subset(shard_sets(name), tmp_path / "subset", samples=samples, topk=topk)
    assert content(tmp_path / "subset") == content(direct)
    one, other = (ShardSet(tmp_path / n).manifest for n in ("subset", "direct"))
    assert one.layout == other.layout
    assert one.index == other.index
    assert [e.images for e in one.shards] == [e.images for e in other.shards]
    settings = {k: v for k, v in one.settings.items() if k != "history"}
    assert settings == other.settings
    assert one.versions == other.versions
    assert one.set_id != other.set_id


def test_a_smaller_k_differs_from_generating_in_checksums_alone(
    tmp_path: Path, photographs: Path, shard_sets: Sets
) -> None:
    direct = ShardSet(make_set(tmp_path / "direct", photographs, topk=1))
    subset(shard_sets(), tmp_path / "subset", topk=1)
    cut = ShardSet(tmp_path / "subset")
    for number in range(len(direct.manifest.shards)):
        one, other = cut.shard(number), direct.shard(number)
        for name in ("labels", "sizes", "fingerprints"):
            assert (getattr(one, name) == getattr(other, name)).all()
        assert one.fingerprinted is None
        raw, expected = (
            s.records.view(np.uint8).reshape(-1, cut.manifest.layout.itemsize) for s in (one, other)
        )
        assert (raw[:, :-4] == expected[:, :-4]).all()
        assert (raw[:, -4:] != expected[:, -4:]).any(1).all()


def test_images_that_are_chosen_by_key_or_class(
    tmp_path: Path, photographs: Path, shard_sets: Sets
) -> None:
    whole = content(shard_sets())
    keys = [*[key for key in whole if key.startswith("n02/")][:2], max(whole)]
    subset(shard_sets(), tmp_path / "keys", keys=keys[::-1])
    assert content(tmp_path / "keys") == {key: whole[key] for key in keys}
    subset(shard_sets(), tmp_path / "classes", classes=["n03", "n01"])
    n02 = {key for key in whole if key.startswith("n02/")}
    assert content(tmp_path / "classes") == {k: v for k, v in whole.items() if k not in n02}
    subset(shard_sets(), tmp_path / "both", classes=["n03"], keys=keys, samples=3)
    both = content(tmp_path / "both")
    assert list(both) == [max(whole)]
    assert [len(values) for values in both[max(whole)][0]] == [3] * len(both[max(whole)][0])


def source_of(photographs: Path, keys: set[str]) -> ImageSource:
    source = ImageSource(ImageFolder(str(photographs)))
    return source.without([key for key in source.keys if key not in keys])


def test_kept_fingerprints_replay(tmp_path: Path, photographs: Path, shard_sets: Sets) -> None:
    whole = ShardSet(shard_sets())
    keys = list(whole.keys)[1::2]
    subset(shard_sets(), tmp_path / "subset", keys=keys, samples=4)
    shards = ShardSet(tmp_path / "subset")
    kept = {}
    for row, key in enumerate(keys):
        before, now = whole.image(whole.keys.row(key)), shards.image(row)
        if before.fingerprinted < 4:
            assert now[:4] == before[:4]
        else:
            assert now.fingerprint is None
        kept[key] = now.fingerprint is not None
    assert set(kept.values()) == {True, False}
    source = source_of(photographs, set(keys))
    report = verify(tmp_path / "subset", source, replay=len(keys))
    assert (report.problems, report.replayed) == ([], sum(kept.values()))
    replayer = Replayer(source, shards)
    views = [[replayer.is_fingerprinted(i, s) for s in range(4)] for i in range(len(source))]
    assert [sum(marks) for marks in views] == [1] * len(source)


def test_mixed_images_keep_their_partners(
    tmp_path: Path, photographs: Path, shard_sets: Sets
) -> None:
    whole = ShardSet(shard_sets("randaug_mixing"))
    keys = list(whole.keys)[:-1]
    with pytest.raises(DatasetMismatchError, match="not chosen"):
        subset(whole.directory, tmp_path / "refused", keys=keys)


def test_partners_are_renumbered(tmp_path: Path) -> None:
    def paired(row: int, sample: int) -> AugmentParams:
        params = params_all(row, sample)
        return params if params.partner is None else params._replace(partner=row ^ 1)

    keys = ["a", "b", "c", "d"]
    mixing = policy("randaug_mixing")
    write_set(tmp_path / "set", mixing, paired, answer_all, samples=5, num_classes=1000, keys=keys)
    subset(tmp_path / "set", tmp_path / "subset", keys=["d", "c"])
    shards = ShardSet(tmp_path / "subset")
    assert [int(shards[0, s]["partner"]) for s in range(5)] == [2**32 - 1, 1, 1, 1, 2**32 - 1]
    assert [int(shards[1, s]["partner"]) for s in range(5)] == [2**32 - 1, 0, 0, 0, 2**32 - 1]
    with pytest.raises(DatasetMismatchError, match="'b' is mixed with 'a'"):
        subset(tmp_path / "set", tmp_path / "refused", keys=["b", "c"])


def test_a_subset_of_a_subset_knows_its_history(tmp_path: Path, shard_sets: Sets) -> None:
    first = subset(shard_sets(), tmp_path / "first", samples=4)
    second = subset(tmp_path / "first", tmp_path / "second", topk=1)
    at_once = subset(shard_sets(), tmp_path / "at once", samples=4, topk=1)
    assert content(tmp_path / "second") == content(tmp_path / "at once")
    assert second.set_id != at_once.set_id
    history = second.settings["history"]
    assert (history["operation"], history["sets"][0]["set_id"]) == ("subset", first.set_id)
    oldest = history["sets"][0]["history"]["sets"][0]
    assert oldest["set_id"] == ShardSet(shard_sets()).manifest.set_id
    assert (oldest["samples"], oldest["topk"], oldest["images"]) == (6, 2, 12)
    text = describe(ShardSet(tmp_path / "second"))
    assert first.set_id in text
    assert oldest["set_id"] in text


def test_a_kept_record_belongs_to_its_new_set(tmp_path: Path, shard_sets: Sets) -> None:
    subset(shard_sets(), tmp_path / "one", samples=5)
    subset(shard_sets(), tmp_path / "other", samples=5, topk=1)
    name = "shard-00001.safetensors"
    (tmp_path / "one" / name).write_bytes((shard_sets() / name).read_bytes())
    with pytest.raises(FormatError, match=name):
        ShardSet(tmp_path / "one")[7, 0]


def test_golden_sets(tmp_path: Path) -> None:
    subset(HERE / "golden-crop", tmp_path / "crop", topk=1)
    record = ShardSet(tmp_path / "crop")["n02/ü.JPEG", 1]
    assert record["ids"].tolist() == [65536]
    assert record["probs"].tolist() == [0.5]
    assert record["offset"].tolist() == [2, 5]


@pytest.mark.parametrize(
    ("options", "error", "facts"),
    [
        ({"samples": 7}, SettingsMismatchError, ["7", "6"]),
        ({"topk": 3}, SettingsMismatchError, ["3", "2"]),
        ({"topk": 0}, SettingsMismatchError, ["0"]),
        ({"classes": ["n02", "n04"]}, DatasetMismatchError, ["n04", "n01"]),
        ({"classes": ["n02"], "keys": ["n01/n01_2.JPEG"]}, DatasetMismatchError, ["12"]),
        ({"keys": []}, DatasetMismatchError, ["12"]),
        ({"keys": ["n01/n01_2.JPEG", "n09/x.JPEG"]}, UnknownImageError, ["n09/x.JPEG"]),
    ],
)
def test_what_does_not_fit(
    tmp_path: Path, shard_sets: Sets, options: Any, error: type[Exception], facts: list[str]
) -> None:
    with pytest.raises(error) as caught:
        subset(shard_sets(), tmp_path / "out", **options)
    assert all(fact in str(caught.value) for fact in facts)
    assert not (tmp_path / "out").exists()


def test_classes_of_images_without_labels(tmp_path: Path) -> None:
    with pytest.raises(DatasetMismatchError, match="n02/ü"):
        subset(HERE / "golden-all", tmp_path / "out", classes=["1"])


def test_a_damaged_record_is_not_copied(tmp_path: Path, shard_sets: Sets) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name, data in files(shard_sets()).items():
        (damaged / name).write_bytes(data)
    file = damaged / "shard-00001.safetensors"
    data = bytearray(file.read_bytes())
    shard = ShardSet(damaged).shard(1)
    data[-shard.records.nbytes + 3] ^= 1  # in the first record
    file.write_bytes(data)
    with pytest.raises(FormatError, match=r"shard-00001.*n02"):
        subset(damaged, tmp_path / "out", samples=2)
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(SettingsMismatchError):
        subset(shard_sets(), tmp_path / "out", samples=3)


def test_answers_that_are_not_sorted(tmp_path: Path) -> None:
    def reversed_(row: int, sample: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        ids, probs = answer_all(row, sample)
        return tuple(ids), tuple(probs) if row < 2 else tuple(probs)[::-1]

    mixing = policy("randaug_mixing")
    write_set(tmp_path / "set", mixing, params_all, reversed_, samples=3, num_classes=1000)
    with pytest.raises(FormatError, match="n02/ü"):
        subset(tmp_path / "set", tmp_path / "out", topk=1)


KILLED = """
import os, signal, sys
from dr_plugins.shards.output import OutputDirectory
from dr_plugins.tools.subset import subset
directory, out, after = sys.argv[1:]
add, added = OutputDirectory.add, []
def add_and_die(self, number, shard):
    if len(added) == int(after):
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, number, shard)
    added.append(number)
OutputDirectory.add = add_and_die
subset(directory, out, samples=3, topk=1)
"""


def test_a_killed_run_continues(tmp_path: Path, shard_sets: Sets) -> None:
    subset(shard_sets(), tmp_path / "at once", samples=3, topk=1)
    command = [sys.executable, "-c", KILLED, str(shard_sets()), str(tmp_path / "killed"), "2"]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "manifest.json").exists()
    kept = tmp_path / "killed" / "shard-00000.safetensors"
    before = kept.stat()
    (tmp_path / "killed" / "shard-00001.safetensors.tmp").write_bytes(b"half")
    subset(shard_sets(), tmp_path / "killed", samples=3, topk=1)
    assert files(tmp_path / "killed") == files(tmp_path / "at once")
    assert kept.stat().st_ino == before.st_ino
    os.remove(kept)
    subset(shard_sets(), tmp_path / "killed", samples=3, topk=1)
    assert files(tmp_path / "killed") == files(tmp_path / "at once")


def test_command(tmp_path: Path, shard_sets: Sets) -> None:
    keys = list(ShardSet(shard_sets()).keys)[3:9]
    (tmp_path / "keys.txt").write_bytes("\r\n".join(keys).encode() + b"\n")
    (tmp_path / "classes.txt").write_text("n02\nn03\n")
    runner, out = CliRunner(), str(tmp_path / "out")
    command = ["subset", str(shard_sets()), "--out", out, "--quiet"]
    assert runner.invoke(main, command).exit_code == 2
    options = ["--samples", "3", "--topk", "1", "--keys", str(tmp_path / "keys.txt")]
    result = runner.invoke(main, [*command, *options, "--classes", str(tmp_path / "classes.txt")])
    assert result.exit_code == 0, result.output
    made = ShardSet(out)
    assert list(made.keys) == [key for key in keys if not key.startswith("n01")]
    assert (made.manifest.samples, made.manifest.topk) == (3, 1)
    many = ",".join(f"n{number:08}" for number in range(99))  # longer than a file's name may be
    assert runner.invoke(main, [*command, "--classes", many]).exit_code == 2
    result = runner.invoke(main, [*command, *options, "--classes", "n07,n01"])
    assert result.exit_code == 2
    assert "n07" in result.output


@pytest.mark.parametrize("history", [{}, {"operation": 3, "sets": []}, {"operation": "x"}, [], 7])
def test_a_damaged_history(tmp_path: Path, shard_sets: Sets, history: Any) -> None:
    subset(shard_sets(), tmp_path / "set", samples=2)
    file = tmp_path / "set" / "manifest.json"
    data = json.loads(file.read_text())
    data["settings"]["history"] = history
    data["set_id"] = settings_digest(data["settings"])
    file.write_text(json.dumps(data))
    with pytest.raises(FormatError, match=r"manifest\.json"):
        ShardSet(tmp_path / "set")
