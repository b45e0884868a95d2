from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from dr_plugins.errors import FormatError, LockedError, OutputError, SettingsMismatchError
from dr_plugins.generation.generate import GenerationSettings, reinforce
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import ImageSource
from dr_plugins.shards.claims import locked
from tests.tiny import TinyTeacher, make_photographs, make_set, policy


def hold(directory: Path, ready: Any) -> None:
    with locked(directory):
        ready.send("held")
        ready.recv()


def test_only_one_process_writes(tmp_path: Path, photographs: Path) -> None:
    out = tmp_path / "set"
    here, there = multiprocessing.Pipe()
    holder = multiprocessing.get_context("fork").Process(target=hold, args=(out, there))
    holder.start()
    assert here.recv() == "held"
    with pytest.raises(LockedError, match=r"another process is writing to .*set"):
        make_set(out, photographs)
    assert [p.name for p in out.iterdir()] == [".lock"]
    holder.kill()  # what a killed process held is free
    holder.join()
    make_set(out, photographs)


def test_a_lock_is_released(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "a" / "b"):
            pass


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write to .*file"), locked(tmp_path / "file"):
        pass


def unfinished(out: Path, photographs: Path) -> Path:
    """A set with one shard and the index to be made."""
    make_set(out, photographs)
    manifest = json.loads((out / "manifest.json").read_text())
    progress = {"settings": manifest["settings"], "versions": manifest["versions"]}
    (out / "unfinished.json").write_text(json.dumps(progress))
    for name in ("manifest.json", "index.safetensors", "shard-00002.safetensors"):
        (out / name).unlink()
    return out


@pytest.fixture(params=["finished", "unfinished"])
def existing(request: pytest.FixtureRequest, tmp_path: Path, photographs: Path) -> Path:
    if request.param == "finished":
        return make_set(tmp_path / "set", photographs)
    return unfinished(tmp_path / "set", photographs)


def fewer_images(root: Path) -> Any:
    return ImageSource(ImageFolder(str(make_photographs(root / "fewer", per_class=3))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"samples": 7}, "samples: 6 there, 7 now"),
        ({"topk": 1}, "topk: 2 there, 1 now"),
        ({"probs_dtype": "float32"}, "probs_dtype: 'float16' there, 'float32' now"),
        ({"batch_size": 8}, "batch_size: 16 there, 8 now"),
        ({"shard_images": 4}, "shard_images: 5 there, 4 now"),
        ({"teacher": TinyTeacher(seed=1)}, "weights: '"),
        ({"policy_": policy(backend="tensor")}, "policy backend: 'pil' there, 'tensor' now"),
        (
            {"policy_": policy(random_erase=None)},
            "policy random_erase: {'p': 0.25, 'scale': [0.02, 0.33], 'ratio': [0.3, 3.3]} there, "
            "absent now).",
        ),
    ],
)
def test_other_settings_are_refused_by_name(
    existing: Path, photographs: Path, changes: dict[str, Any], message: str
) -> None:
    before = sorted(existing.iterdir())
    with pytest.raises(SettingsMismatchError) as error:
        make_set(existing, photographs, **changes)
    assert message in str(error.value)
    assert str(existing) in str(error.value)
    assert str(error.value).count(" there, ") == 1
    assert sorted(existing.iterdir()) == before


def test_other_images_are_refused(existing: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsMismatchError, match=r"images: 12 there, 9 now; keys: '"):
        make_set(existing, fewer_images(tmp_path))


@pytest.mark.parametrize(
    ("ensemble", "message"),
    [
        (Ensemble([TinyTeacher()], temperature=2), "temperature: 1.0 there, 2 now"),
        (Ensemble([TinyTeacher()], compiled=True), "compiled: False there, True now"),
        (Ensemble([TinyTeacher(), TinyTeacher()]), "weights: '"),
    ],
)
def test_other_teachers_are_refused(
    existing: Path, photographs: Path, ensemble: Ensemble, message: str
) -> None:
    settings = GenerationSettings(policy(), samples=6, topk=2, batch_size=16, shard_images=5)
    source = ImageSource(ImageFolder(str(photographs)))
    with pytest.raises(SettingsMismatchError) as error:
        reinforce(source, ensemble, existing, settings)
    assert message in str(error.value)


def test_long_values_are_cut(tmp_path: Path, photographs: Path) -> None:
    out = unfinished(tmp_path / "set", photographs)
    progress = json.loads((out / "unfinished.json").read_text())
    progress["settings"]["class_names"] = [f"n{i:08d}" for i in range(1000)]
    (out / "unfinished.json").write_text(json.dumps(progress))
    with pytest.raises(SettingsMismatchError, match=r"class_names: \['n00000000'.*\.\.\. there"):
        make_set(out, photographs)


def change_version(out: Path, name: str, version: str) -> None:
    for path in (out / "unfinished.json", out / "manifest.json"):
        if path.exists():
            data = json.loads(path.read_text())
            data["versions"][name] = version
            path.write_text(json.dumps(data))


def test_other_versions_are_refused_while_there_is_work_left(
    tmp_path: Path, photographs: Path
) -> None:
    out = unfinished(tmp_path / "set", photographs)
    change_version(out, "pillow", "9.9")
    with pytest.raises(SettingsMismatchError, match=r"pillow: '9.9' there, '\d+"):
        make_set(out, photographs)


def test_other_versions_are_welcome_where_nothing_is_left_to_do(
    tmp_path: Path, photographs: Path
) -> None:
    out = make_set(tmp_path / "set", photographs)
    change_version(out, "pillow", "9.9")
    make_set(out, photographs)
    (out / "shard-00001.safetensors").unlink()
    with pytest.raises(SettingsMismatchError, match="pillow"):
        make_set(out, photographs)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"settings": 3, "versions": {}}', '{"settings": {"policy": 1}}']
)
def test_damaged_progress_is_an_error(tmp_path: Path, photographs: Path, text: str) -> None:
    out = unfinished(tmp_path / "set", photographs)
    (out / "unfinished.json").write_text(text)
    with pytest.raises(FormatError, match=r"unfinished\.json is damaged"):
        make_set(out, photographs)
    assert (out / "shard-00000.safetensors").exists()


def test_a_damaged_manifest_is_not_overwritten(tmp_path: Path, photographs: Path) -> None:
    out = make_set(tmp_path / "set", photographs)
    (out / "manifest.json").write_text("{")
    with pytest.raises(FormatError, match=r"manifest\.json"):
        make_set(out, photographs)


def test_somebody_elses_files_are_left_alone(tmp_path: Path, photographs: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(SettingsMismatchError, match="of unknown origin"):
        make_set(tmp_path, photographs)
    assert (tmp_path / "model.safetensors").read_bytes() == b"precious"


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_left_overs_are_removed_or_named(
    tmp_path: Path, photographs: Path, make: Callable[[Path], None]
) -> None:
    left_over = tmp_path / "shard-00000.safetensors.tmp"
    make(left_over)
    if left_over.is_dir():
        with pytest.raises(OutputError, match=r"cannot delete .*shard-00000\.safetensors\.tmp"):
            make_set(tmp_path, photographs)
    else:
        make_set(tmp_path, photographs)
        assert not left_over.exists()


def test_foreign_files_are_no_left_overs(tmp_path: Path, photographs: Path) -> None:
    for name in ("thesis.tmp", "model.safetensors.tmp"):
        (tmp_path / name).write_bytes(b"precious")
    make_set(tmp_path, photographs)
    for name in ("thesis.tmp", "model.safetensors.tmp"):
        assert (tmp_path / name).read_bytes() == b"precious"


def test_a_left_over_progress_file_goes_once_the_set_is_complete(
    tmp_path: Path, photographs: Path
) -> None:
    out = make_set(tmp_path / "set", photographs)
    (out / "unfinished.json").write_text("{}")
    make_set(out, photographs)
    assert sorted(p.name for p in out.iterdir()) == [
        ".lock",
        "index.safetensors",
        "manifest.json",
        "shard-00000.safetensors",
        "shard-00001.safetensors",
        "shard-00002.safetensors",
    ]


def test_labels_and_sizes_are_the_images(tmp_path: Path, photographs: Path) -> None:
    from dr_plugins.shards.reader import ShardSet

    shards = ShardSet(make_set(tmp_path / "set", photographs))
    folder = ImageFolder(str(photographs))
    for path, label in folder.samples:
        row = shards.keys.row(Path(path).relative_to(photographs).as_posix())
        image = np.asarray(folder.loader(path))
        assert shards.image(row)[:2] == (label, image.shape[:2])
