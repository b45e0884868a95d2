from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.data import AugMixDataset, FastCollateMixup, Mixup
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy
from torch import nn
from torchvision.datasets import ImageFolder

from dr_plugins import ImageSource, KDLoss, SparseTargets
from dr_plugins.errors import DatasetMismatchError
from dr_plugins.generation.generate import GenerationSettings, reinforce
from dr_plugins.generation.teachers import Ensemble
from tests.own_loss import ReverseKL
from tests.tiny import TinyTeacher, policy
from timm_ext import (
    DatasetNameError,
    UnsupportedOptionError,
    create_dataset,
    create_loader,
    create_loss,
)

LOGITS = torch.tensor([[0.5, -1.0, 2.0, 0.0], [1.0, 1.0, -2.0, 0.3]])
TARGETS = SparseTargets([[2, 0], [1, -1]], [[0.7, 0.2], [1.0, 0.0]], num_classes=4)


def divergence(temperature: float = 1.0) -> float:
    log_probs = F.log_softmax(LOGITS.double() / temperature, 1)
    loss = F.kl_div(log_probs, TARGETS.dense().double(), reduction="batchmean")
    return float(loss) * temperature**2


@pytest.mark.parametrize("criterion", [create_loss(), LabelSmoothingCrossEntropy(0.1)])
def test_stored_answers_get_the_kl_divergence(criterion: nn.Module) -> None:
    assert criterion(LOGITS, TARGETS).item() == pytest.approx(divergence(), abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_labels_get_timms_smoothed_cross_entropy(smoothing: float) -> None:
    labels = torch.tensor([3, 1])
    ours = LabelSmoothingCrossEntropy(smoothing=smoothing)(LOGITS, labels)
    expected = F.cross_entropy(LOGITS.double(), labels, label_smoothing=smoothing)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-6)


def test_other_targets_get_the_plain_loss() -> None:
    labels = torch.tensor([3, 1])
    assert create_loss()(LOGITS, labels).item() == F.cross_entropy(LOGITS, labels).item()
    assert create_loss(plain=nn.MultiMarginLoss())(LOGITS, labels).item() == (
        F.multi_margin_loss(LOGITS, labels).item()
    )


def test_cross_entropy_of_smoothing_zero_has_the_same_gradient() -> None:
    gradients = []
    for criterion in (nn.CrossEntropyLoss(), LabelSmoothingCrossEntropy()):
        logits = LOGITS.clone().requires_grad_()
        criterion(logits, TARGETS).backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("criterion", [create_loss(), LabelSmoothingCrossEntropy()])
def test_wrong_number_of_classes(criterion: nn.Module) -> None:
    with pytest.raises(DatasetMismatchError, match=r"targets 4.*--num-classes"):
        criterion(torch.zeros(2, 1000), TARGETS)


@pytest.fixture(scope="module")
def softened(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a dataset whose teacher was softened by 3."""
    out = tmp_path_factory.mktemp("sets") / "softened"
    source = ImageSource(ImageFolder(str(data_dir / "train")))
    settings = GenerationSettings(policy("rrc", size=16), samples=2, topk=2, batch_size=8)
    reinforce(source, Ensemble([TinyTeacher()], temperature=3.0), out, settings)
    return f"imagenet-plus?shards={out}"


def test_temperature_of_the_set(
    softened: str, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    early = LabelSmoothingCrossEntropy()
    dataset = create_dataset(softened, str(data_dir), "train", is_training=True)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    _, targets = dataset.collate([dataset[0], dataset[1]])
    logits = torch.tensor([[0.5, -1.0, 2.0], [1.0, 1.0, -2.0]])
    log_probs = F.log_softmax(logits.double() / 3, 1)
    expected = 9 * F.kl_div(log_probs, targets.dense().double(), reduction="batchmean").item()
    for criterion in (create_loss(dataset), create_loss(), LabelSmoothingCrossEntropy(), early):
        assert criterion(logits, targets).item() == pytest.approx(expected, abs=1e-5)


def test_losses_of_another_temperature_are_refused(
    softened: str, data_dir: Path, train: Callable[..., Any]
) -> None:
    plain = create_dataset("imagenet-plus", str(data_dir), "train", is_training=True)
    dataset = create_dataset(softened, str(data_dir), "train", is_training=True)
    _, targets = dataset.collate([dataset[0], dataset[1]])
    for criterion in (create_loss(plain), KDLoss(), nn.CrossEntropyLoss()):
        with pytest.raises(ValueError, match=r"temperature 3\.0.*the loss 1\.0.*--smoothing 0"):
            criterion(torch.zeros(2, 3), targets)
    for prefetcher in ([], ["--no-prefetcher"]):
        assert train("--img-size", "16", *prefetcher, dataset=softened)["epochs"]
        with pytest.raises(ValueError, match="--smoothing 0"):
            train("--img-size", "16", "--smoothing", "0", *prefetcher, dataset=softened)


OWN = "loss=tests.own_loss:ReverseKL"


def test_a_loss_that_a_user_wrote(
    softened: str, data_dir: Path, caplog: pytest.LogCaptureFixture, train: Callable[..., Any]
) -> None:
    early = LabelSmoothingCrossEntropy()
    plain = create_dataset("imagenet-plus", str(data_dir), "train", is_training=True)
    with caplog.at_level(logging.INFO, "timm_ext"):
        dataset = create_dataset(f"{softened}&{OWN}", str(data_dir), "train", is_training=True)
        late = LabelSmoothingCrossEntropy()
    assert "ReverseKL" in caplog.text
    loader = create_loader(dataset, 16, 4, is_training=True, use_prefetcher=False)
    _, targets = dataset.collate([dataset[0], dataset[1]])
    logits = torch.tensor([[0.5, -1.0, 2.0], [1.0, 1.0, -2.0]])
    expected = ReverseKL(temperature=3.0)(logits, targets).item()
    assert expected != pytest.approx(KDLoss(3.0)(logits, targets).item())
    for criterion in (
        create_loss(dataset),
        create_loss(loader.dataset),
        create_loss(),
        early,
        late,
    ):
        assert criterion(logits, targets).item() == pytest.approx(expected)
        torch.testing.assert_close(
            criterion(logits, torch.tensor([0, 1])),
            F.cross_entropy(logits, torch.tensor([0, 1]), label_smoothing=0.1)
            if isinstance(criterion, LabelSmoothingCrossEntropy)
            else F.cross_entropy(logits, torch.tensor([0, 1])),
        )
    assert isinstance(late.answers, ReverseKL)
    assert isinstance(create_loss(plain).answers, KDLoss)
    later = create_dataset("", str(data_dir), "train", is_training=True)  # images for a probe, say
    assert later is not None
    with pytest.raises(UnsupportedOptionError, match=r"create_loss"):
        LabelSmoothingCrossEntropy()(logits, targets)
    assert create_loss(dataset)(logits, targets).item() == pytest.approx(expected)
    dataset = create_dataset(f"{softened}&{OWN}", str(data_dir), "train", is_training=True)
    with pytest.raises(UnsupportedOptionError, match=r"ReverseKL.*--smoothing 0"):
        nn.CrossEntropyLoss()(logits, targets)
    assert train("--img-size", "16", dataset=f"{softened}&{OWN}&p=1")["epochs"]
    with pytest.raises(UnsupportedOptionError, match=r"ReverseKL.*--smoothing 0"):
        train("--smoothing", "0", dataset=f"imagenet-plus?{OWN}")


def test_options_of_the_loss(data_dir: Path) -> None:
    name = "imagenet-plus?loss=KDLoss(label_weight=0.25)"
    dataset = create_dataset(name, str(data_dir), "train", is_training=True)
    assert create_loss(dataset).answers.label_weight == 0.25
    for wrong in ("KDLos", "KDLoss(label_weight=3)", "KDLoss(temperature=2.0)"):
        with pytest.raises(DatasetNameError, match="option 'loss'"):
            create_dataset(f"imagenet-plus?loss={wrong}", str(data_dir), "train", is_training=True)


def test_smoothing_is_said_to_be_unused_once(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "timm_ext"):
        LabelSmoothingCrossEntropy(0.1)
        assert caplog.messages == []
        dataset = create_dataset("imagenet-plus", str(data_dir), "train", is_training=True)
        caplog.clear()
        LabelSmoothingCrossEntropy(0.1)
    (message,) = caplog.messages
    assert "--smoothing 0.1 is not used" in message
    assert dataset is not None


def test_mixing_and_other_losses_are_refused_only_in_reinforced_training(data_dir: Path) -> None:
    makers = {
        "--mixup": lambda: Mixup(num_classes=3),
        "--cutmix": lambda: FastCollateMixup(cutmix_alpha=1.0, num_classes=3),
        "--bce-loss": lambda: BinaryCrossEntropy(),
    }
    for make in makers.values():
        make()
    dataset = create_dataset("imagenet-plus", str(data_dir), "train", is_training=True)
    for option, make in makers.items():
        with pytest.raises(UnsupportedOptionError, match=option):
            make()
    with pytest.raises(UnsupportedOptionError, match="--aug-splits"):
        AugMixDataset(dataset, num_splits=3)
    plain = create_dataset("", str(data_dir), "train", is_training=True)
    for make in makers.values():
        make()
    assert len(AugMixDataset(plain, num_splits=3)) == 12
