"""The loops for hosts without an adapter, on a few photographs."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import torch

pytest.importorskip("timm")

from dr_plugins import ReinforcedDataset

LOOPS = {
    "plain": None,
    "accelerate_loop": "accelerate",
    "huggingface_trainer": "transformers",
    "lightning_module": "lightning",
}


@pytest.fixture
def run(
    photographs: Path,
    shard_sets: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[list[Any], str]]:
    """Runs a loop, and returns its batches (epoch, images, a number of their views) and output."""
    root, batches, serve = tmp_path / "images", list[Any](), ReinforcedDataset.__getitems__
    shutil.copytree(photographs, root / "train")
    shutil.copytree(photographs, root / "validation")

    def served(self: ReinforcedDataset, indices: Sequence[int]) -> Any:
        samples = serve(self, indices)
        batches.append((self.epoch, len(indices), sum(float(view.sum()) for view, _ in samples)))
        return samples

    monkeypatch.setattr(ReinforcedDataset, "__getitems__", served)
    monkeypatch.chdir(tmp_path)

    def go(name: str, *options: str) -> tuple[list[Any], str]:
        if (needed := LOOPS[name]) is not None:
            pytest.importorskip(needed)
        batches.clear()
        torch.manual_seed(0)
        importlib.import_module(f"examples.loops.{name}").main(
            [
                *(str(root), str(shard_sets()), "--model", "test_resnet"),
                *("--batch-size", "4", "--workers", "0", "--lr", "0.01", *options),
            ],
            standalone_mode=False,
        )
        return list(batches), capsys.readouterr().out

    return go


@pytest.mark.parametrize("name", LOOPS)
def test_each_epoch_has_its_views(name: str, run: Callable[..., Any]) -> None:
    batches, output = run(name, "--epochs", "2")
    assert [batch[:2] for batch in batches] == [(0, 4)] * 3 + [(1, 4)] * 3
    assert len({batch[2] for batch in batches}) == 6
    assert "top-1" in output


@pytest.mark.parametrize(
    ("name", "save", "resume", "expected"),
    [
        ("plain", ["--save-every", "1"], [], 4),
        ("lightning_module", ["--save-every", "1"], ["--resume", "run/last.ckpt"], 4),
        ("accelerate_loop", [], [], 3),
        ("huggingface_trainer", [], ["--resume"], 3),
    ],
)
def test_it_continues_where_it_saved(
    name: str,
    save: list[str],
    resume: list[str],
    expected: int,
    run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ("--epochs", "2", "--out", "run", *save)
    whole, _ = run(name, *options)
    shutil.rmtree("run")

    with monkeypatch.context() as patch:
        step, steps = torch.optim.SGD.step, list[int]()

        def four_steps(self: torch.optim.SGD, closure: Any = None) -> Any:
            if len(steps) == 4:
                raise KeyboardInterrupt
            steps.append(1)
            return step(self, closure)

        patch.setattr(torch.optim.SGD, "step", four_steps)
        with pytest.raises((KeyboardInterrupt, SystemExit, click.exceptions.Abort)):
            run(name, *options)
    rest, _ = run(name, *options, *resume)
    assert rest == whole[expected:]


def test_other_classes_are_noticed_before_the_first_step(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    from dr_plugins.errors import DatasetMismatchError

    (first, *_) = sorted((tmp_path / "images" / "validation").iterdir())
    first.rename(first.with_name("zebra"))
    with pytest.raises(DatasetMismatchError, match="n02"):
        run("plain")
