"""Metrics of a classifier, against torchmetrics and against the formulas in NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from dr_plugins.metrics import (
    ImageScores,
    adaptive_calibration_error,
    expected_calibration_error,
    fit_temperature,
)

CLASSES = 12


@pytest.fixture(scope="module")
def answers() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a classifier that is too confident, and labels."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(CLASSES, (5000,), generator=generator)
    logits = torch.randn(5000, CLASSES, generator=generator)
    logits[torch.arange(5000), labels] += 2
    return 3 * logits, labels


def softmax(logits: torch.Tensor) -> np.ndarray:
    powers = np.exp(logits.double().numpy() - logits.double().numpy().max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_accuracy_and_ece_are_those_of_torchmetrics(
    answers: tuple[torch.Tensor, torch.Tensor],
) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    logits, labels = answers
    metrics = ImageScores.of(logits, labels).metrics()
    for name, k in (("top1", 1), ("top5", 5)):
        accuracy = functional.multiclass_accuracy(logits, labels, CLASSES, top_k=k, average="micro")
        assert metrics[name] == pytest.approx(accuracy.item(), abs=1e-6)
    probs = logits.double().softmax(1)
    ece = functional.multiclass_calibration_error(probs, labels, CLASSES, n_bins=15).item()
    assert metrics["ece"] == pytest.approx(ece, abs=1e-6)
    assert expected_calibration_error(probs, labels) == pytest.approx(ece, abs=1e-6)


def test_all_metrics_follow_their_formulas(answers: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = answers
    metrics = ImageScores.of(logits, labels).metrics()
    probs, right = softmax(logits), labels.numpy()
    order = np.argsort(-probs, axis=1)
    hits = order == right[:, None]
    confidence = probs.max(1)
    edges = np.linspace(0, 1, 16)
    ece = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            ece += inside.mean() * abs(hits[inside, 0].mean() - confidence[inside].mean())
    adaptive = 0.0
    for part in np.array_split(np.argsort(confidence), 15):
        adaptive += len(part) / 5000 * abs(hits[part, 0].mean() - confidence[part].mean())
    one_hot = np.eye(CLASSES)[right]
    assert metrics == {
        "top1": pytest.approx(hits[:, 0].mean(), abs=1e-9),
        "top5": pytest.approx(hits[:, :5].any(1).mean(), abs=1e-9),
        "ece": pytest.approx(ece, abs=1e-9),
        "adaptive_ece": pytest.approx(adaptive, abs=1e-9),
        "nll": pytest.approx(-np.log(probs[np.arange(5000), right]).mean(), abs=1e-9),
        "brier": pytest.approx(((probs - one_hot) ** 2).sum(1).mean(), abs=1e-9),
    }
    assert metrics["adaptive_ece"] == pytest.approx(
        adaptive_calibration_error(torch.from_numpy(probs), labels), abs=1e-9
    )


def test_a_certain_answer_is_in_the_last_bin() -> None:
    probs = torch.tensor([[1.0, 0.0], [0.95, 0.05]], dtype=torch.double)
    # One bin: accuracy 0.5, confidence 0.975.
    assert expected_calibration_error(probs, torch.tensor([1, 0])) == pytest.approx(0.475)


def test_neither_the_order_nor_the_batches_of_images_matter(
    answers: tuple[torch.Tensor, torch.Tensor],
) -> None:
    logits, labels = answers
    logits = logits.bfloat16().float().round()  # many equal logits and confidences
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    whole = ImageScores.of(logits, labels).metrics()
    assert ImageScores.of(logits[order], labels[order]).metrics() == pytest.approx(whole)
    parts = [ImageScores.of(*part) for part in zip(logits.split(7), labels.split(7), strict=True)]
    assert ImageScores.concatenated(parts).metrics() == pytest.approx(whole)


@pytest.mark.parametrize(("k", "name"), [(1, "top1"), (5, "top5")])
def test_equal_classes_count_as_if_drawn(k: int, name: str) -> None:
    logits = torch.zeros(CLASSES, CLASSES)
    scores = ImageScores.of(logits, torch.arange(CLASSES))
    assert scores.metrics()[name] == pytest.approx(k / CLASSES)
    two = torch.zeros(CLASSES, CLASSES, dtype=torch.bool)
    two[:, :2] = True
    pairs = CLASSES * (CLASSES - 1) / 2
    missed = (CLASSES - k) * (CLASSES - k - 1) / 2 / pairs
    assert ImageScores.of(logits, two).metrics()[name] == pytest.approx(1 - missed)


def test_several_right_labels(answers: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = answers
    right = torch.zeros(len(labels), CLASSES, dtype=torch.bool)
    right[torch.arange(len(labels)), labels] = True
    right[:, 0] = True
    metrics = ImageScores.of(logits, right).metrics()
    order = np.argsort(-logits.numpy(), axis=1)
    hits = (order == labels.numpy()[:, None]) | (order == 0)
    assert metrics["top1"] == pytest.approx(hits[:, 0].mean())
    assert metrics["top5"] == pytest.approx(hits[:, :5].any(1).mean())
    assert np.isnan([metrics["nll"], metrics["brier"]]).all()


def test_one_right_label_is_the_same_in_both_forms(
    answers: tuple[torch.Tensor, torch.Tensor],
) -> None:
    logits, labels = answers
    right = torch.nn.functional.one_hot(labels, CLASSES).bool()
    one, several = ImageScores.of(logits, labels), ImageScores.of(logits, right)
    for name in ("top1", "top5", "confidence"):
        torch.testing.assert_close(one.columns()[name], several.columns()[name])
    assert fit_temperature(logits, right) == pytest.approx(fit_temperature(logits, labels))


def test_what_is_not_a_number_is_wrong() -> None:
    logits = torch.eye(3)
    logits[1, 0] = float("nan")
    scores = ImageScores.of(logits, torch.arange(3))
    assert scores.top1.tolist() == [1, 0, 1]
    assert scores.confidence[1] == 1.0
    with pytest.raises(ValueError, match="finite"):
        fit_temperature(logits, torch.arange(3))


def test_the_temperature_is_the_minimum(answers: tuple[torch.Tensor, torch.Tensor]) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    logits, labels = answers

    def loss(temperature: float) -> float:
        return torch.nn.functional.cross_entropy(logits.double() / temperature, labels).item()

    best = optimize.minimize_scalar(
        loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-9}
    )
    assert fit_temperature(logits, labels) == pytest.approx(best.x, rel=1e-5)
    assert 1.5 < best.x < 5
    calibrated = ImageScores.of(logits / best.x, labels).metrics()
    assert calibrated["ece"] < ImageScores.of(logits, labels).metrics()["ece"] / 3


@pytest.mark.parametrize(("label", "expected"), [(0, 0.01), (1, 100.0)])
def test_a_temperature_without_minimum_is_at_an_end(label: int, expected: float) -> None:
    logits = torch.tensor([[1.0, 0.0]]).repeat(5, 1)
    assert fit_temperature(logits, torch.full((5,), label)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 3])),
        (torch.zeros(2, 3), torch.tensor([-1, 0])),
        (torch.zeros(2, 3), torch.tensor([0])),
        (torch.zeros(2, 3), torch.zeros(2, 4, dtype=torch.bool)),
        (torch.zeros(6), torch.zeros(6, dtype=torch.long)),
    ],
)
def test_labels_that_do_not_fit(logits: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        ImageScores.of(logits, labels)


def test_no_images() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ImageScores.of(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)).metrics()
    with pytest.raises(ValueError, match="at least one"):
        ImageScores.concatenated([])
