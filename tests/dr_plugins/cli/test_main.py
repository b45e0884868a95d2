from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torchvision.datasets import ImageFolder

from dr_plugins import __version__
from dr_plugins.cli.main import main
from dr_plugins.policies.config import preset_names
from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.shards.reader import ShardSet
from tests.tiny import hurt, make_photographs, make_set, photograph

ROOT = Path(__file__).parents[3]
SMALL = ["--samples", "2", "--topk", "2", "--size", "16", "--shard-images", "5", "--workers", "0"]
TEACHER = ["--teacher", "python:tests.tiny:build_teacher"]


@pytest.fixture(autouse=True)
def restored_path() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def reinforce(images: object, out: Path, *more: object) -> Result:
    return run("reinforce", "--images", images, *TEACHER, "--out", out, *SMALL, *more)


def error_of(result: Result, code: int = 1) -> str:
    """The message of a command that failed as it should: on stderr, no traceback."""
    assert result.exit_code == code, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert "Error: " in result.stderr
    assert "Error: " not in result.stdout
    return result.stderr


# --- reinforce ------------------------------------------------------------------------------------


def test_views_too_large_to_be_stored(tmp_path: Path, photographs: Path) -> None:
    result = reinforce(photographs, tmp_path / "set", "--policy", "randaug", "--size", 70_000)
    assert "size is 70000, expected at most 65535" in error_of(result)
    assert not (tmp_path / "set").exists()


def test_reinforce(tmp_path: Path, photographs: Path) -> None:
    out = tmp_path / "set"
    result = reinforce(photographs, out)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{ShardSet(out)!r}\n"
    assert "12 images x 2 reinforcements, top-2 of 3 classes" in result.stdout
    shards = ShardSet(out)
    assert shards.manifest.settings["teachers"] == ["python:tests.tiny:build_teacher"]
    assert stored_policy(shards).view_size == (16, 16)


def test_the_progress_bar_counts_images_and_can_be_silenced(
    tmp_path: Path, photographs: Path
) -> None:
    loud = reinforce(photographs, tmp_path / "a")
    assert re.search(
        r"2 views of each image: 100%\|█+\| 12/12 \[00:\d\d<00:00, +[\d.]+ images/s\]", loud.stderr
    )
    quiet = reinforce(photographs, tmp_path / "b", "--quiet")
    assert quiet.stderr == ""
    assert quiet.stdout == loud.stdout.replace("/a'", "/b'")


def test_options_reach_the_manifest(tmp_path: Path, photographs: Path) -> None:
    options = "--lossless --bf16 --temperature 2.5 --seed 7 --batch-size 3 --backend tensor"
    assert reinforce(photographs, tmp_path / "set", *options.split(), *TEACHER).exit_code == 0
    told = ShardSet(tmp_path / "set").manifest.settings
    assert (told["probs_dtype"], told["precision"]) == ("float32", "bfloat16")
    assert (told["temperature"], told["seed"], told["batch_size"]) == (2.5, 7, 3)
    assert (told["policy"]["backend"], len(told["teachers"])) == ("tensor", 2)


def test_who_makes_the_views_is_no_part_of_the_set(tmp_path: Path, photographs: Path) -> None:
    for name, options in (("a", []), ("b", ["--views-on", "device"])):
        made = reinforce(photographs, tmp_path / name, "--backend", "tensor", *options)
        assert made.exit_code == 0, made.output
    for file in (tmp_path / "a").glob("*.*"):
        assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes()


def test_compiled_teachers(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    def noted(teacher: torch.nn.Module, **options: object) -> torch.nn.Module:
        compiled.append(options)  # what compiling does is tested where teachers are
        return teacher

    monkeypatch.setattr(torch, "compile", noted)
    out = tmp_path / "set"
    assert reinforce(photographs, out, "--compile").exit_code == 0
    assert compiled == [{"dynamic": False}]
    assert ShardSet(out).manifest.settings["compiled"] is True


def test_a_policy_file_changes_a_preset(tmp_path: Path, photographs: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "preset: randaug\nrandom_resized_crop: {scale: [0.3, 1.0]}\nrandom_erase: null\n"
    )
    out = tmp_path / "set"
    result = reinforce(photographs, out, "--policy", tmp_path / "mine.yaml")
    assert result.exit_code == 0, result.output
    policy = ShardSet(out).manifest.settings["policy"]
    assert policy["random_resized_crop"]["scale"] == [0.3, 1.0]
    assert policy["random_resized_crop"]["size"] == 16
    assert "random_erase" not in policy
    assert policy["rand_augment"]["magnitude"] == 9


def test_a_class_map_names_all_classes(tmp_path: Path) -> None:
    images = make_photographs(tmp_path / "train", per_class=1, classes=["n02", "n03"])
    message = error_of(reinforce(images, tmp_path / "a"))
    assert "the images have 2 classes, the teacher 3" in message
    assert "class map" in message
    (tmp_path / "classes.txt").write_text("n01\nn02\nn03\n")
    result = reinforce(images, tmp_path / "a", "--class-map", tmp_path / "classes.txt")
    assert result.exit_code == 0, result.output
    shards = ShardSet(tmp_path / "a")
    assert [shards.image(row).label for row in range(2)] == [1, 2]
    assert shards.manifest.settings["class_names"] == ["n01", "n02", "n03"]
    mapped = ["--images", images, "--class-map", tmp_path / "classes.txt", "--replay", 2]
    assert run("verify", tmp_path / "a", *mapped).exit_code == 0


def write_mnist(root: Path, count: int) -> None:
    """Grey images of 28 x 28 in torchvision's layout."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    images = [np.asarray(photograph(i, 28, 28).convert("L")) for i in range(count)]
    header = b"".join(n.to_bytes(4, "big") for n in (0x803, count, 28, 28))
    labels = (0x801).to_bytes(4, "big") + count.to_bytes(4, "big") + bytes(range(count))
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + np.stack(images).tobytes())
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(labels)


def test_a_module_can_be_imported_first(tmp_path: Path, photographs: Path) -> None:
    result = reinforce(photographs, tmp_path / "set", "--import", "tests.tiny")
    assert result.exit_code == 0, result.output
    shown = error_of(reinforce(photographs, tmp_path / "b", "--import", "no_such_module"), code=2)
    assert "Invalid value for --import: No module named 'no_such_module'" in shown


def test_a_torchvision_dataset_and_a_teacher_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "data", 4)
    (tmp_path / "ten_classes_here.py").write_text(
        "from tests.tiny import hurt, TinyTeacher\n\n\ndef build():\n    return TinyTeacher(10)\n"
    )
    monkeypatch.chdir(tmp_path)
    teacher = ["--teacher", "python:ten_classes_here:build"]
    images = ["--images", "torchvision:MNIST:data"]
    result = run("reinforce", *images, *teacher, "--out", "set", *SMALL)
    assert result.exit_code == 0, result.output
    shards = ShardSet(tmp_path / "set")
    assert list(shards.keys) == ["00000", "00001", "00002", "00003"]
    assert shards.manifest.num_classes == 10
    verified = run("verify", "set", *images, "--replay", 4, "--quiet")
    assert verified.stdout == "2 files checked, 4 views replayed, no problems\n"


def test_the_same_command_resumes(tmp_path: Path, photographs: Path) -> None:
    images = shutil.copytree(photographs, tmp_path / "train")
    damaged = sorted(images.glob("n03/*"))[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(hurt(whole))
    out = tmp_path / "set"
    message = error_of(reinforce(images, out, "--min-agreement", "0"))
    assert f"cannot read image 'n03/{damaged.name}'" in message
    kept = (out / "shard-00000.safetensors").stat()
    damaged.write_bytes(whole)
    result = reinforce(images, out)
    assert result.exit_code == 0
    assert (out / "shard-00000.safetensors").stat().st_mtime_ns == kept.st_mtime_ns
    again = reinforce(images, out)
    assert (again.exit_code, again.stdout) == (0, result.stdout)
    assert "100%" not in again.stderr
    other = reinforce(images, out, "--seed", "1")
    assert "seed: 0 there, 1 now" in error_of(other)


def test_too_many_samples_are_a_mistake(tmp_path: Path, photographs: Path) -> None:
    assert "99999999" in error_of(reinforce(photographs, tmp_path, "--samples", "99999999"), code=2)


def test_unreadable_images_are_skipped_by_a_list(tmp_path: Path, photographs: Path) -> None:
    images = shutil.copytree(photographs, tmp_path / "train")
    cut, damaged = sorted(images.glob("n03/*"))[:2]
    cut.write_bytes(cut.read_bytes()[:300])
    damaged.write_bytes(hurt(damaged.read_bytes()))
    out, skip = tmp_path / "set", ("--skip-unreadable", str(tmp_path / "skip.txt"))
    assert f"'n03/{cut.name}'" in error_of(reinforce(images, out))
    for _ in range(2):
        result = reinforce(images, out, *skip, "--check-images", "full")
        assert result.exit_code == 0, result.output
    listed = [f"n03/{cut.name}", f"n03/{damaged.name}"]
    assert (tmp_path / "skip.txt").read_text().split() == listed
    assert ShardSet(out).manifest.left_out == listed
    assert "left_out" in error_of(reinforce(images, out))


def test_an_interrupted_command_says_how_to_go_on(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dr_plugins.generation.making.ShardMaker._noted", interrupted)
    result = reinforce(photographs, tmp_path / "set")
    assert result.exit_code == 1
    assert "same command" in result.stderr
    assert "Aborted!" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topk", "4"], "top-k is 4 with 3 classes"),
        (["--teacher", "keras:x"], "teacher 'keras:x'"),
        (["--teacher", "python:tests.tiny:nothing"], "nothing"),
        (["--policy", "nothing"], "'nothing' is neither a preset"),
        (["--images", "nowhere"], "cannot open images 'nowhere'"),
        (["--images", "torchvision:Nothing:data"], "cannot open images 'torchvision:Nothing:data'"),
    ],
)
def test_errors_of_data_exit_with_1(
    tmp_path: Path, photographs: Path, arguments: list[str], message: str
) -> None:
    assert message in error_of(reinforce(photographs, tmp_path / "set", *arguments))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "0"], "0 is not in the range"),
        (["--topk", "-1"], "--topk"),
        (["--size", "0"], "--size"),
        (["--batch-size", "x"], "--batch-size"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**64)], "--seed"),
        (["--temperature", "0"], "--temperature"),
        (["--workers", "-1"], "--workers"),
        (["--backend", "abacus"], "'abacus' is not one of 'pil', 'tensor'"),
        (["--device", "abacus"], "--device"),
        (["--class-map", "nowhere.txt"], "nowhere.txt"),
        (["--colour", "red"], "No such option"),
    ],
)
def test_wrong_usage_exits_with_2(
    tmp_path: Path, photographs: Path, arguments: list[str], message: str
) -> None:
    shown = error_of(reinforce(photographs, tmp_path / "set", *arguments), code=2)
    assert message in shown
    assert shown.startswith("Usage: ")
    assert not (tmp_path / "set").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there(tmp_path: Path, photographs: Path) -> None:
    shown = error_of(reinforce(photographs, tmp_path / "set", "--device", "cuda"), code=2)
    assert "Invalid value for --device" in shown


def test_required_options_are_named() -> None:
    for option in ("--images", "--teacher", "--out"):
        given = {"--images": "a", "--teacher": "b", "--out": "c"}
        del given[option]
        pairs = [text for pair in given.items() for text in pair]
        assert f"Missing option '{option}'" in error_of(run("reinforce", *pairs), code=2)


# --- info and verify ------------------------------------------------------------------------------


def test_info(shard_sets: Callable[..., Path]) -> None:
    result = run("info", shard_sets())
    assert (result.exit_code, result.stderr) == (0, "")
    assert "12, each with 6 reinforcements" in result.stdout
    assert "n01, n02, n03" in result.stdout


@pytest.mark.parametrize("command", ["info", "verify"])
def test_no_shard_set(tmp_path: Path, command: str) -> None:
    assert "is not a shard set" in error_of(run(command, tmp_path))
    assert "is not a shard set" in error_of(run(command, tmp_path / "nowhere"))
    assert "Missing argument 'SET'" in error_of(run(command), code=2)


def test_info_of_a_damaged_set(tmp_path: Path, shard_sets: Callable[..., Path]) -> None:
    own = shutil.copytree(shard_sets(), tmp_path / "own")
    for shard in own.glob("shard-*"):
        shard.unlink()
    assert "shard-00000.safetensors: No such file" in error_of(run("info", own))


def test_verify(shard_sets: Callable[..., Path], photographs: Path) -> None:
    result = run("verify", shard_sets(), "--images", photographs, "--replay", 3)
    assert result.exit_code == 0
    assert result.stdout == "4 files checked, 3 views replayed, no problems\n"
    assert "4/4" in result.stderr
    assert run("verify", shard_sets(), "--quiet").stderr == ""


def test_verify_reports_every_problem(tmp_path: Path, shard_sets: Callable[..., Path]) -> None:
    own = shutil.copytree(shard_sets(), tmp_path / "own")
    (own / "shard-00000.safetensors").unlink()
    with open(own / "shard-00002.safetensors", "ab") as file:
        file.write(b"\0")
    result = run("verify", own, "--quiet")
    assert result.exit_code == 1
    first, second = result.stderr.splitlines()
    assert first.startswith(f"WRONG: cannot read {own}/shard-00000.safetensors")
    assert second.startswith(f"WRONG: {own}/shard-00002.safetensors is damaged")
    assert result.stdout == "4 files checked, 0 views replayed, 2 problems\n"


def test_verify_finds_a_changed_image(tmp_path: Path, shard_sets: Callable[..., Path]) -> None:
    images = make_photographs(tmp_path / "train")
    path = sorted(images.glob("n01/*"))[0]
    with Image.open(path) as image:
        size = image.size
    photograph(99, size[1], size[0]).save(path)
    result = run("verify", shard_sets(), "--images", images, "--replay", 12, "--quiet")
    assert result.exit_code == 1
    assert f"WRONG: image 'n01/{path.name}' does not replay" in result.stderr
    assert result.stdout == "4 files checked, 12 views replayed, 1 problem\n"


def test_verify_replay_needs_images(shard_sets: Callable[..., Path]) -> None:
    assert "--replay needs the images" in error_of(run("verify", shard_sets(), "--replay", 1), 2)
    assert "--replay" in error_of(run("verify", shard_sets(), "--replay", -1), 2)


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", ["reinforce", "info", "verify"])
def test_help_shows_examples_as_they_are_written(command: str, flag: str) -> None:
    result = run(command, flag)
    assert result.exit_code == 0
    assert re.search(r"^Examples?:$", result.stdout, re.MULTILINE)
    assert re.search(rf"^  dr-plugins {command} ", result.stdout, re.MULTILINE)
    if command == "reinforce":
        assert "      --teacher timm:convnext_xlarge --policy randaug" in result.stdout
        words = " ".join(result.stdout.split())
        assert "Reinforcements per image, S. [default: 400; 1<=x<=1048576]" in words
        assert f"Preset ({', '.join(preset_names())}) or YAML file" in words


def test_help_of_all() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in ("reinforce", "info", "verify"):
        assert f"  {command}  " in result.stdout
    assert "Exit status: 0 on success, 1 if something is wrong" in result.stdout
    assert run("--version").stdout.strip().endswith(__version__)


# --- the real command -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_console_script_is_killed_and_resumes(tmp_path: Path, photographs: Path) -> None:
    script = Path(sysconfig.get_path("scripts")) / "dr-plugins"
    if not script.exists():
        pytest.skip("dr-plugins is not installed")
    out = tmp_path / "set"
    (tmp_path / "killing_teacher.py").write_text(
        "import os, signal\n"
        "from tests.tiny import hurt, TinyTeacher\n"
        "class Killing(TinyTeacher):\n"
        "    calls = -1\n"
        "    def forward(self, views):\n"
        "        self.calls += 1\n"
        "        if self.calls == 3 and 'KILL' in os.environ:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().forward(views)\n"
    )
    command = [str(script), "reinforce", "--images", str(photographs), "--out", str(out), *SMALL]
    command += ["--teacher", "python:killing_teacher:Killing"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=tmp_path,
            env={**environment, **more},
            capture_output=True,
            text=True,
            check=False,
        )

    assert start(KILL="1").returncode == -signal.SIGKILL
    assert [path.name for path in out.glob("shard-*")] == ["shard-00000.safetensors"]
    resumed = start()
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming: 1 of 3 shards are finished" in resumed.stderr
    told = json.loads((out / "manifest.json").read_text())
    expected = make_set(
        tmp_path / "expected",
        ImageFolder(str(photographs)),
        policy_=stored_policy(ShardSet(out)),
        samples=2,
        batch_size=256,
        shard_images=5,
    )
    for number in range(3):
        mine, theirs = ShardSet(out).records(number), ShardSet(expected).records(number)
        for name in mine.dtype.names[:-1]:  # the checksums cover what the sets were made with
            np.testing.assert_array_equal(mine[name], theirs[name])
    assert [entry["images"] for entry in told["shards"]] == [5, 5, 2]


def test_the_package_runs_as_the_command_does() -> None:
    call = [sys.executable, "-m", "dr_plugins", "--help"]
    result = subprocess.run(call, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("Usage: dr-plugins ")
    assert "reinforce" in result.stdout
