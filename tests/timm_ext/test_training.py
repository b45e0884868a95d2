"""Whole trainings: the calls of train.py in this process, scripts and launchers in others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from dr_plugins.errors import DatasetMismatchError, ReinforcementError
from tests.forked import run_python
from timm_ext import UnsupportedOptionError

ROOT = Path(__file__).resolve().parents[2]
DRIVER = str(Path(__file__).with_name("train_driver.py"))
Train = Callable[..., dict[str, Any]]


def check(report: dict[str, Any], steps: int = 3) -> None:
    """Two epochs of soft targets, each with other reinforcements."""
    assert len(report["epochs"]) == 2
    for epoch in report["epochs"]:
        assert len(epoch["losses"]) == steps
        assert all(0 < loss < 10 for loss in epoch["losses"])
        assert all(target.startswith("SparseTargets") for target in epoch["targets"])
        assert epoch["eval"] > 0
    first, second = (set(epoch["images"]) for epoch in report["epochs"])
    assert first.isdisjoint(second)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--no-prefetcher",
        "--workers 2",
        "--workers 1 --no-prefetcher",
        "--amp",
        "--channels-last",
        "--grad-accum-steps 2",
        "--model-ema",
        "--torchcompile",
        "--smoothing 0",
        "--smoothing 0 --amp --no-prefetcher",
        "--epoch-repeats 3",
        "--aa rand-m9-mstd0.5 --scale 0.3 0.5 --hflip 0 --reprob 0.9",
        "--img-size 24",
        "--img-size 40 --no-prefetcher",
        "--seed 7",
    ],
)
def test_options_that_work(train: Train, options: str) -> None:
    check(train(*options.split()))


@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_pinned_memory(train: Train) -> None:
    check(train("--pin-mem", "--workers", "1"))


def test_the_plain_share_trains_along(train: Train) -> None:
    for prefetcher in ([], ["--no-prefetcher"]):
        check(train(*prefetcher, dataset="imagenet-plus?p=0.5"))


def test_runs_repeat(train: Train) -> None:
    one, again, helped = train(), train(), train("--workers", "2")
    assert one == again
    assert one["epochs"][0]["images"] == helped["epochs"][0]["images"]
    assert one["epochs"][0]["targets"] == helped["epochs"][0]["targets"]


@pytest.mark.parametrize("options", ["", "--no-prefetcher", "--workers 1"])
def test_a_resumed_training_goes_on_with_the_same_reinforcements(
    train: Train, tmp_path: Path, options: str
) -> None:
    # One image a batch: without processes the order is torch's, whose state timm does not save.
    alone = [*options.split(), "--batch-size", "1", "--img-size", "64"]
    whole = train(*alone, "--epochs", "3")["epochs"]
    train(*alone, "--epochs", "2", "--output", str(tmp_path))
    resumed = train(*alone, "--epochs", "3", "--resume", str(tmp_path / "last.pth.tar"))["epochs"]
    assert len(resumed) == 1
    pairs = [set(zip(epoch["images"], epoch["targets"], strict=True)) for epoch in whole]
    assert set(zip(resumed[0]["images"], resumed[0]["targets"], strict=True)) == pairs[2]
    assert len(pairs[2]) == 12
    assert pairs[2].isdisjoint(pairs[0] | pairs[1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--mixup 0.2", "--mixup and --cutmix"),
        ("--cutmix 1 --no-prefetcher", "--mixup and --cutmix"),
        ("--aug-splits 3 --jsd-loss", "--aug-splits"),
        ("--naflex-loader", "--naflex-loader"),
        ("--bce-loss", "--bce-loss"),
        ("--use-multi-epochs-loader", "--use-multi-epochs-loader"),
        ("--in-chans 1", "--in-chans"),
        ("--input-img-mode L", "--input-img-mode"),
        ("--aug-repeats 3", "--aug-repeats"),
    ],
)
def test_options_that_are_refused(train: Train, options: str, said: str) -> None:
    with pytest.raises(UnsupportedOptionError) as error:
        train(*options.split())
    assert said in str(error.value)
    assert "cannot be used with a reinforced dataset" in str(error.value)


@pytest.mark.parametrize("options", ["", "--smoothing 0"])
def test_a_new_demand_is_checked(train: Train, new_demand: str, options: str) -> None:
    with pytest.raises(DatasetMismatchError, match=new_demand):
        train(*options.split())


def test_wrong_number_of_classes_before_the_first_step(train: Train) -> None:
    with pytest.raises(DatasetMismatchError, match=r"targets 3.*--num-classes"):
        train("--num-classes", "10")
    with pytest.raises(DatasetMismatchError, match=r"targets 3.*--num-classes"):
        train("--num-classes", "10", "--smoothing", "0")


def test_unknown_names_never_train(train: Train) -> None:
    for name in ("imagenet_plus", "imagenet-plus?q=1", "cifar10-plus", "imagenet?p=1"):
        with pytest.raises(ReinforcementError):
            train(dataset=name)


def in_a_process(*command: str, env: dict[str, str] | None = None) -> str:
    result = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def forked(*command: str) -> str:
    """The same, but for what an interpreter does when it starts."""
    result = run_python(command)
    assert result.returncode == 0, result.stderr
    return result.stdout


def reports(output: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return sorted(found, key=lambda report: report["rank"])


@pytest.fixture
def arguments(data_dir: Path) -> list[str]:
    options = ["--data-dir", str(data_dir), "--num-classes", "3", "--img-size", "32"]
    return ["--dataset", "imagenet-plus?p=1", *options]


def test_device_modules_of_a_script(arguments: list[str], train: Train) -> None:
    output = forked(DRIVER, "--device-modules", "timm_ext", *arguments)
    assert reports(output) == [train()]


def test_launcher(arguments: list[str], train: Train) -> None:
    output = forked("-m", "timm_ext", DRIVER, *arguments)
    assert reports(output) == [train()]


def test_a_plain_training_is_untouched(data_dir: Path) -> None:
    options = ["--data-dir", str(data_dir), "--num-classes", "3", "--img-size", "32"]
    options += ["--dataset", "", "--reprob", "0.5", "--mixup", "0.2"]
    plain = reports(forked(DRIVER, *options))
    assert plain[0]["epochs"][0]["targets"][0].startswith("Tensor")
    assert reports(forked(DRIVER, "--device-modules", "timm_ext", *options)) == plain


def test_launcher_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    from timm_ext.__main__ import main
    from timm_ext.names import NAMES, DatasetName

    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    options = {field.name for field in fields(DatasetName)} - {"name"}
    for word in ("train.py", "torchrun", "DR_PLUGINS_SHARDS", *NAMES):
        assert word in said
    assert options == set(re.findall(r"^  ([a-z]+)  ", said, re.M))


@pytest.mark.parametrize("script", ["no/such/train.py", "tests"])
def test_launcher_without_a_script(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    from timm_ext.__main__ import main

    with pytest.raises(SystemExit) as stop:
        main([script])
    assert stop.value.code == 2
    assert script in capsys.readouterr().err


def test_launcher_runs_a_script_as_python_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timm_ext.__main__ import main

    (tmp_path / "sibling.py").write_text("VALUE = 5")
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys, sibling\n"
        "assert __name__ == '__main__' and sibling.VALUE == 5\n"
        "from pathlib import Path\n"
        "Path(__file__).with_suffix('.json').write_text(json.dumps(sys.argv))\n"
    )
    monkeypatch.setattr(sys, "argv", ["before"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    main([str(script), "-b", "4", "--help", "--", "x"])
    said = json.loads(script.with_suffix(".json").read_text())
    assert said == [str(script), "-b", "4", "--help", "--", "x"]


def test_launcher_tells_of_another_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from timm_ext.__main__ import main

    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").touch()
    (tmp_path / "train.py").touch()
    monkeypatch.setattr(sys, "argv", ["before"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.warns(UserWarning, match=f"PYTHONPATH={tmp_path}"):
        main([str(tmp_path / "train.py")])


@pytest.mark.slow
def test_two_processes_share_the_images_and_resume(arguments: list[str], tmp_path: Path) -> None:
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "timm_ext"]
    run += [DRIVER, *arguments, "--batch-size", "2", "--workers", "1", "--epochs", "2"]
    whole = reports(in_a_process(*run, "--output", str(tmp_path)))
    assert [report["rank"] for report in whole] == [0, 1]
    for report in whole:
        check(report)
    for epoch, other_epoch in zip(*(report["epochs"] for report in whole), strict=True):
        assert set(epoch["images"]).isdisjoint(other_epoch["images"])
    resumed = reports(in_a_process(*run, "--resume", str(tmp_path / "checkpoint-0.pth.tar")))
    for one, other in zip(whole, resumed, strict=True):
        (epoch,) = other["epochs"]
        assert epoch["images"] == one["epochs"][1]["images"]
        assert epoch["targets"] == one["epochs"][1]["targets"]
        assert epoch["losses"] == pytest.approx(one["epochs"][1]["losses"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(
    "TIMM_TRAIN_SCRIPT" not in os.environ,
    reason="TIMM_TRAIN_SCRIPT does not name timm's train.py, which timm's package does not contain",
)
@pytest.mark.parametrize("launcher", [False, True])
def test_the_real_script(data_dir: Path, tmp_path: Path, launcher: bool) -> None:
    script = os.environ["TIMM_TRAIN_SCRIPT"]
    run = ["-m", "timm_ext", script] if launcher else [script, "--device-modules", "timm_ext"]
    options = f"--dataset imagenet-plus?p=1 --data-dir {data_dir} --model test_resnet"
    options += f" --num-classes 3 --img-size 32 --device cpu -b 4 --epochs 2 --output {tmp_path}"
    run += f"{options} --workers 1 --sched-on-updates --recovery-interval 1 --experiment".split()
    output = in_a_process(*run, "whole")
    results = json.loads(output[output.index("--result") + len("--result") :])
    assert sorted(result["epoch"] for result in results) == [0, 1]
    assert all(0 < result["train"]["loss"] < 10 for result in results)

    in_a_process(*run, "resumed", "--resume", str(tmp_path / "whole" / "recovery-1-1.pth.tar"))
    one, other = (
        torch.load(tmp_path / name / "last.pth.tar", weights_only=False)["state_dict"]
        for name in ("whole", "resumed")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
