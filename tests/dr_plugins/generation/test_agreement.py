from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.generation.agreement import check_agreement, measure_agreement
from dr_plugins.generation.generate import GenerationSettings, reinforce
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.sources import ImageSource
from tests.tiny import make_photographs, policy

CLASSES = [f"c{i:02d}" for i in range(12)]


class Shifted(nn.Module):
    """Knows the class of each image, which is written all over it, in another order of classes."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        level = views.flatten(1).float().mean(1).div(20).round().long() + self.shift
        return 9 * nn.functional.one_hot(level % len(CLASSES), len(CLASSES)).float()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    from PIL import Image

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
    ("share", "classes", "minimum", "accepted"),
    [
        (0.049, 1000, None, False),
        (0.051, 1000, None, True),
        (0.0, 9, None, True),
        (0.14, 10, None, False),
        (0.4, 1000, 0.5, False),
        (0.0, 1000, 0.0, True),
        (None, 1000, 0.5, True),
    ],
)
def test_the_least_share(
    share: float | None, classes: int, minimum: float | None, accepted: bool
) -> None:
    if accepted:
        check_agreement(share, classes, minimum)
    else:
        with pytest.raises(DatasetMismatchError):
            check_agreement(share, classes, minimum)


def test_few_labels_say_nothing(labelled: ImageSource) -> None:
    teacher = Ensemble([Shifted(0)])
    few = ImageSource(Subset(labelled.dataset, range(19)))
    assert measure_agreement(few, teacher, policy("rrc"), "cpu") is None
    assert measure_agreement(labelled, teacher, policy("mixing"), "cpu") == 1.0


def test_no_images_are_refused(tmp_path: Path) -> None:
    settings = GenerationSettings(policy("rrc"), samples=3, topk=2)
    with pytest.raises(DatasetMismatchError, match="no images"):
        reinforce(ImageSource([], keys=[]), Ensemble([Shifted(0)]), tmp_path / "a", settings)
