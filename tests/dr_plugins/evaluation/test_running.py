"""Results are kept, resumed and told apart; models that do not fit are refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from dr_plugins.errors import EvaluationError, ImageReadError
from dr_plugins.evaluation import ImageSet, ModelUnderTest, evaluate, find_sets
from dr_plugins.metrics import ImageScores, fit_temperature
from tests.dr_plugins.evaluation.imitations import (
    CLASSES,
    COUNT,
    WNIDS,
    draw,
    draw_imagenet,
    model,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    draw_imagenet(tmp_path)
    return find_sets(["imagenet"], [tmp_path], CLASSES)[0][0]


class Counting(nn.Module):
    """Counts the images that a model is asked for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.count = inner, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.count += len(images)
        answer: torch.Tensor = self.inner(images)
        return answer


def counting(sharpness: float = 1.0) -> tuple[ModelUnderTest, Counting]:
    tested = model(sharpness=sharpness)
    network = Counting(tested.network)
    tested.network = network
    return tested, network


@pytest.mark.parametrize("workers", [0, 2])
def test_a_finished_set_is_not_run_again(images: ImageSet, tmp_path: Path, workers: int) -> None:
    tested, network = counting()
    first = evaluate(tested, images, tmp_path / "out", workers=workers, batch_size=7)
    again = evaluate(counting()[0], images, tmp_path / "out")
    assert network.count == len(images)
    assert again.identity == first.identity
    assert again.temperatures == first.temperatures
    for name, column in first.scores.columns().items():
        torch.testing.assert_close(again.scores.columns()[name], column, rtol=0, atol=0)
        torch.testing.assert_close(
            again.scaled.columns()[name], first.scaled.columns()[name], rtol=0, atol=0
        )


def test_other_weights_precision_and_images_are_run_again(images: ImageSet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluate(model(), images, out)
    for sharpness, bf16 in ((2.0, False), (2.0, True)):
        tested, network = counting(sharpness)
        evaluate(tested, images, out, bf16=bf16)
        assert network.count == len(images)
    draw(images.root / WNIDS[3] / "ILSVRC2012_val_00009999.JPEG", 3.2)
    (more,), _ = find_sets(["imagenet"], [tmp_path], CLASSES)
    tested, network = counting(2.0)
    assert len(evaluate(tested, more, out, bf16=True).scores) == len(images) + 1
    other = replace(more, labels=more.labels.roll(1))
    tested, network = counting(2.0)
    evaluate(tested, other, out, bf16=True)
    assert network.count == len(other)


def test_a_killed_run_is_resumed_after_its_last_set(tmp_path: Path) -> None:
    draw_imagenet(tmp_path)
    code = """
import os, sys
from pathlib import Path
from dr_plugins.evaluation import evaluate, find_sets
from tests.dr_plugins.evaluation.imitations import CLASSES, model
root = Path(sys.argv[1])
first, second = find_sets(["imagenet", "real"], [root], CLASSES)[0]
evaluate(model(), first, root / "out")
tested = model()
tested.network.register_forward_hook(lambda *_: os.kill(os.getpid(), 9))
evaluate(tested, second, root / "out")
"""
    killed = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, check=False)
    assert killed.returncode == -9
    sets, _ = find_sets(["imagenet", "real"], [tmp_path], CLASSES)
    tested, network = counting()
    for each in sets:
        evaluate(tested, each, tmp_path / "out")
    assert network.count == len(sets[1])
    assert len(list((tmp_path / "out").rglob("*.safetensors"))) == 2


def test_labels_of_the_same_images_cost_one_pass(tmp_path: Path) -> None:
    draw_imagenet(tmp_path)
    sets, _ = find_sets(["imagenet", "real"], [tmp_path], CLASSES)
    tested, network = counting()
    both = [evaluate(tested, each, tmp_path / "out") for each in sets]
    assert network.count == len(sets[0])
    alone = evaluate(model("alone"), sets[1], tmp_path / "out")
    torch.testing.assert_close(both[1].scores.top1, alone.scores.top1)


def test_each_half_is_scaled_by_the_other(images: ImageSet, tmp_path: Path) -> None:
    result = evaluate(model(sharpness=4.0), images, tmp_path / "out")
    tensors = torch.stack([model().transform(images.load(i)) for i in range(len(images))])
    with torch.no_grad():
        logits = model(sharpness=4.0).network(tensors)
    even, odd = slice(0, None, 2), slice(1, None, 2)
    first = fit_temperature(logits[even], images.labels[even])
    second = fit_temperature(logits[odd], images.labels[odd])
    assert result.temperatures == pytest.approx((first, second))
    assert first > 1.5
    expected = ImageScores.of(logits[even] / second, images.labels[even])
    torch.testing.assert_close(result.scaled.nll[even], expected.nll, rtol=1e-5, atol=1e-6)
    assert result.scaled.metrics()["nll"] < result.scores.metrics()["nll"]


def test_a_damaged_result_is_noticed(images: ImageSet, tmp_path: Path) -> None:
    evaluate(model(), images, tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(EvaluationError, match=path.name):
        evaluate(model(), images, tmp_path / "out")


def test_a_result_without_a_metric_of_today_is_made_again(images: ImageSet, tmp_path: Path) -> None:
    whole = evaluate(model(), images, tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("*.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        old = {name: file.get_tensor(name) for name in file.keys() if "brier" not in name}  # noqa: SIM118
    save_file(old, path, metadata)
    again = evaluate(model(), images, tmp_path / "out")
    assert again.scores.metrics() == whole.scores.metrics()
    with safe_open(path, "pt") as file:
        assert {"brier", "scaled.brier"} <= set(file.keys())


def test_a_model_of_other_classes(images: ImageSet, tmp_path: Path) -> None:
    tested = replace(model(), network=nn.Sequential(nn.Flatten(), nn.Linear(192, 10)))
    with pytest.raises(EvaluationError, match=rf"\[60, 10\].*{COUNT} classes"):
        evaluate(tested, images, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_values_that_are_not_finite(images: ImageSet, tmp_path: Path) -> None:
    tested = model(sharpness=float("nan"))
    with pytest.raises(EvaluationError, match=images.files[0]):
        evaluate(tested, images, tmp_path / "out")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image(images: ImageSet, tmp_path: Path, workers: int) -> None:
    (images.root / images.files[9]).write_bytes(b"no image")
    with pytest.raises(ImageReadError, match=images.files[9]) as caught:
        evaluate(model(), images, tmp_path / "out", workers=workers)
    assert "Traceback" not in str(caught.value)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_an_image_that_is_a_link_to_nothing(images: ImageSet, tmp_path: Path) -> None:
    path = images.root / images.files[3]
    path.unlink()
    path.symlink_to("nothing")
    with pytest.raises(ImageReadError, match=path.name):
        evaluate(model(), images, tmp_path / "out")


def test_a_place_that_cannot_be_written_to(images: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(EvaluationError, match="out"):
        evaluate(model(), images, tmp_path / "out")
