from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.generation.agreement import Agreement, check_agreement, measure_agreement
from dr_plugins.generation.generate import GenerationSettings, reinforce
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import ImageSource, open_source
from tests.tiny import make_photographs, policy

CLASSES = [f"c{i:02d}" for i in range(12)]


class Shifted(nn.Module):
    """Knows the class of each image, which is written all over it, in another order of classes."""

    def __init__(self, shift: int, classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.shift, self.classes = shift, classes

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        level = views.flatten(1).float().mean(1).div(20).round().long() + self.shift
        return 9 * nn.functional.one_hot(level % self.classes, self.classes).float()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    root = tmp_path_factory.mktemp("labelled")
    make_photographs(root, per_class=2, classes=CLASSES)
    for number, file in enumerate(sorted(root.rglob("*.JPEG"))):
        Image.new("RGB", (30, 30), (20 * (number // 2),) * 3).save(file, quality=95)
    return ImageSource(ImageFolder(str(root)))


def test_another_order_of_classes_is_refused(labelled: ImageSource, tmp_path: Path) -> None:
    settings = GenerationSettings(policy("rrc"), samples=3, topk=2)
    reinforce(labelled, Ensemble([Shifted(0)]), tmp_path / "right", settings)
    with pytest.raises(DatasetMismatchError, match=r"0\.00% of sampled views.*class map"):
        reinforce(labelled, Ensemble([Shifted(1)]), tmp_path / "wrong", settings)
    assert not list((tmp_path / "wrong").glob("shard-*"))
    reinforce(labelled, Ensemble([Shifted(1)]), tmp_path / "wrong", settings, min_agreement=0)


@pytest.mark.parametrize(
    ("share", "chance", "classes", "minimum", "accepted"),
    [
        (0.049, 0.001, 1000, None, False),
        (0.051, 0.001, 1000, None, True),
        (0.14, 0.1, 10, None, False),
        (0.4, 0.001, 1000, 0.5, False),
        (0.0, 0.001, 1000, 0.0, True),
        (0.51, 0.5, 2, None, False),  # labels that have nothing to do with the answers
        (0.02, 0.5, 2, None, False),  # the other way around
        (0.7, 0.5, 2, None, True),
        (0.35, 1 / 3, 3, None, False),
        (0.45, 1 / 3, 3, None, True),
        (0.95, 0.95, 2, None, True),  # nearly all of one class: nobody can tell
        (0.02, 0.5, 2, 0.0, True),
    ],
)
def test_the_least_share(
    share: float, chance: float, classes: int, minimum: float | None, accepted: bool
) -> None:
    measured = Agreement(share, chance, 256)
    if accepted:
        check_agreement(measured, classes, minimum)
    else:
        with pytest.raises(DatasetMismatchError):
            check_agreement(measured, classes, minimum)


def test_few_labels_say_nothing(labelled: ImageSource, caplog: pytest.LogCaptureFixture) -> None:
    teacher = Ensemble([Shifted(0)])
    few = ImageSource(Subset(labelled.dataset, range(19)))
    assert measure_agreement(few, teacher, policy("rrc"), "cpu") is None
    check_agreement(None, 1000)
    assert not caplog.records
    check_agreement(None, 1000, 0.25)  # which a user has asked for
    assert "0.25" in caplog.text


def test_what_is_measured(labelled: ImageSource) -> None:
    for shift, share in ((0, 1.0), (1, 0.0)):
        measured = measure_agreement(labelled, Ensemble([Shifted(shift)]), policy("mixing"), "cpu")
        assert measured == (share, pytest.approx(1 / 12), 24)


def test_the_first_class_counts_and_unknown_ones_do_not() -> None:
    def images(label: int | None) -> ImageSource:
        return ImageSource([(Image.new("RGB", (9, 9)), label)] * 24, [f"{i}" for i in range(24)])

    for shift, share in ((0, 1.0), (3, 0.0)):
        measured = measure_agreement(images(0), Ensemble([Shifted(shift)]), policy("rrc"), "cpu")
        assert measured is not None
        assert (measured.share, measured.views) == (share, 24)
    assert measure_agreement(images(None), Ensemble([Shifted(0)]), policy("rrc"), "cpu") is None


def test_folders_that_are_not_the_teachers_classes(tmp_path: Path) -> None:
    """Two classes, and two folders that hold both of them: parts of a dataset, under any name."""
    for number in range(24):
        path = tmp_path / "images" / f"part{number % 2}" / ["dark", "bright"][number // 12]
        path.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 30), (20 * (number // 12),) * 3).save(path / f"{number}.png")
    source = open_source(str(tmp_path / "images"))
    settings = GenerationSettings(policy("rrc"), samples=3, topk=2)
    with pytest.raises(DatasetMismatchError, match="chance"):
        reinforce(source, Ensemble([Shifted(0, 2)]), tmp_path / "wrong", settings)


def test_what_became_a_class_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_photographs(tmp_path / "images", per_class=2, classes=("n01", "caf\u00e9"))
    for name in ("a.gif", "b.GIF", "c.avif"):
        (root / "n01" / name).write_bytes(b"x")
    settings = GenerationSettings(policy("rrc"), samples=3, topk=2)
    with caplog.at_level(logging.INFO):
        reinforce(open_source(str(root)), Ensemble([Shifted(0, 2)]), tmp_path / "set", settings)
    assert "4 images of 2 classes: 'café', 'n01'" in caplog.text
    (left_out,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert left_out.endswith("3 (2 .gif, 1 .avif)")


def test_classes_in_an_order_that_depends_on_the_library(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_photographs(tmp_path / "images", per_class=2, classes=("apple", "Cat"))
    settings = GenerationSettings(policy("rrc"), samples=3, topk=2)
    reinforce(open_source(str(root)), Ensemble([Shifted(0, 2)]), tmp_path / "set", settings)
    (message,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "'Cat' precedes 'apple'" in message


def test_no_images_are_refused(tmp_path: Path) -> None:
    settings = GenerationSettings(policy("rrc"), samples=3, topk=2)
    with pytest.raises(DatasetMismatchError, match="no images"):
        reinforce(ImageSource([], keys=[]), Ensemble([Shifted(0)]), tmp_path / "a", settings)
