"""Trainings that resume, between epochs and in the middle of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from dr_plugins.errors import DatasetMismatchError
from timm_ext import UnsupportedOptionError

Train = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("options", ["", "--no-prefetcher", "--workers 2", "--resume-first"])
def test_a_recovery_checkpoint_continues_its_epoch(
    train: Train, tmp_path: Path, options: str
) -> None:
    run = [*options.split(), "--batch-size", "1", "--img-size", "64"]
    whole = train(*run, "--epochs", "3")["epochs"]
    train(*run, "--epochs", "2", "--output", str(tmp_path), "--recovery-interval", "5")
    for taken in (5, 10):
        checkpoint = str(tmp_path / f"recovery-1-{taken - 1}.pth.tar")
        rest = train(*run, "--epochs", "3", "--resume", checkpoint)["epochs"]
        assert [len(epoch["images"]) for epoch in rest] == [12 - taken, 12]
        for before, after in zip(whole[1:], rest, strict=True):
            for name in ("images", "targets", "losses"):
                assert before[name][-len(after[name]) :] == after[name]


def test_a_run_that_was_resumed_resumes_again(train: Train, tmp_path: Path) -> None:
    run = ["--batch-size", "1", "--img-size", "64", "--epochs"]
    whole = train(*run, "2")["epochs"][1]["images"]
    train(*run, "2", "--output", str(tmp_path), "--recovery-interval", "5")
    for name, left, interval in (("1-4", 7, "2"), ("1-3", 3, "1")):  # 5 images, and 4 more
        checkpoint = str(tmp_path / f"recovery-{name}.pth.tar")
        again = [*run, "2", "--resume", checkpoint, "--output", str(tmp_path)]
        rest = train(*again, "--recovery-interval", interval)["epochs"]
        assert [epoch["images"] for epoch in rest] == [whole[-left:]]


def test_accumulated_gradients_are_counted(train: Train, tmp_path: Path) -> None:
    run = ["--batch-size", "1", "--img-size", "64", "--grad-accum-steps", "3", "--epochs", "2"]
    whole = train(*run)["epochs"][1]
    train(*run, "--output", str(tmp_path), "--recovery-interval", "3")
    rest = train(*run, "--resume", str(tmp_path / "recovery-1-2.pth.tar"))["epochs"]
    assert rest[0]["images"] == whole["images"][9:]
    assert rest[0]["losses"] == whole["losses"][9:]


def test_an_epoch_that_is_over(train: Train, tmp_path: Path) -> None:
    run = ["--batch-size", "5", "--epochs"]  # two images of twelve are dropped
    train(*run, "1", "--output", str(tmp_path), "--recovery-interval", "2")
    checkpoint = str(tmp_path / "recovery-0-1.pth.tar")
    assert len(train(*run, "2", "--resume", checkpoint)["epochs"]) == 1


def test_another_run(train: Train, tmp_path: Path) -> None:
    train("--output", str(tmp_path), "--recovery-interval", "2", "--epochs", "1")
    checkpoint = str(tmp_path / "recovery-0-1.pth.tar")
    with pytest.raises(DatasetMismatchError, match="seed 42"):
        train("--seed", "7", "--resume", checkpoint)


def test_plain_runs_resume_as_timm_does(train: Train, tmp_path: Path) -> None:
    run = ["--output", str(tmp_path), "--recovery-interval", "2"]
    train(*run, "--epochs", "1", dataset="")
    saved = torch.load(tmp_path / "recovery-0-1.pth.tar", weights_only=False)
    assert set(saved["optimizer"]) == {"state", "param_groups"}
    rest = train("--resume", str(tmp_path / "recovery-0-1.pth.tar"), dataset="")["epochs"]
    assert len(rest) == 1  # the rest of the first epoch is left out


def test_plain_data_after_reinforced_begins_the_next_epoch(train: Train, tmp_path: Path) -> None:
    train("--output", str(tmp_path), "--recovery-interval", "2", "--epochs", "1")
    resume = ["--resume", str(tmp_path / "recovery-0-1.pth.tar")]
    with pytest.raises(UnsupportedOptionError, match="epoch 0 of a reinforced dataset"):
        train(*resume, "--resume-first", dataset="")
    assert len(train(*resume, dataset="")["epochs"]) == 1


def test_reinforced_data_after_plain_begins_the_next_epoch(train: Train, tmp_path: Path) -> None:
    train("--output", str(tmp_path), "--recovery-interval", "2", "--epochs", "1", dataset="")
    resume = ["--resume", str(tmp_path / "recovery-0-1.pth.tar")]
    whole = train()["epochs"][1]["images"]
    assert [epoch["images"] for epoch in train(*resume)["epochs"]] == [whole]


def test_schedules_count_the_updates_before(
    monkeypatch: pytest.MonkeyPatch, train: Train, tmp_path: Path
) -> None:
    run = ["--batch-size", "1", "--img-size", "64"]
    train(*run, "--output", str(tmp_path), "--recovery-interval", "5")
    rates: list[float] = []
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    schedule = CosineLRScheduler(optimizer, t_initial=24, t_in_epochs=False)
    expected = [schedule._get_lr(12 + 5 + n)[0] for n in range(7)]

    from tests.timm_ext import train_driver

    step = train_driver.train_one_epoch

    def train_one_epoch(*args: Any, **kwargs: Any) -> dict[str, Any]:
        for number in range(7):
            schedule.step_update(12 + number)
            rates.append(optimizer.param_groups[0]["lr"])
        return step(*args, **kwargs)

    monkeypatch.setattr(train_driver, "train_one_epoch", train_one_epoch)
    train(*run, "--resume", str(tmp_path / "recovery-1-4.pth.tar"))
    assert rates == expected
