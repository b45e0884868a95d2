"""Accuracy and calibration, against numbers counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.evaluation import print_csv_format
from detectron2.utils import comm

from d2_ext import ClassificationEvaluator
from dr_plugins.errors import DatasetMismatchError
from dr_plugins.metrics import ImageScores, expected_calibration_error


def evaluate(logits: torch.Tensor, labels: torch.Tensor, parts: int = 1) -> dict[str, float]:
    evaluator = ClassificationEvaluator()
    evaluator.process({"labels": labels[:1]}, {"logits": logits[:1]})
    evaluator.reset()
    for some, others in zip(logits.chunk(parts), labels.chunk(parts), strict=True):
        evaluator.process({"labels": others}, {"logits": some})
    results = evaluator.evaluate()
    print_csv_format(results)
    return results["classification"]


@pytest.mark.parametrize("parts", [1, 4])
def test_metrics(parts: int) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(200, 10) * 3, torch.randint(10, (200,))
    found = evaluate(logits, labels, parts)
    order = np.argsort(-logits.numpy(), axis=1)
    hits = order == labels.numpy()[:, None]
    assert found["top1"] == pytest.approx(100 * hits[:, 0].mean())
    assert found["top5"] == pytest.approx(100 * hits[:, :5].any(axis=1).mean())
    error = expected_calibration_error(logits.softmax(dim=1), labels)
    assert found["ECE"] == pytest.approx(100 * error)
    probs = logits.double().softmax(dim=1).numpy()
    one_hot = np.eye(10)[labels.numpy()]
    assert found["NLL"] == pytest.approx(-np.log((probs * one_hot).sum(1)).mean())
    assert found["Brier"] == pytest.approx(((probs - one_hot) ** 2).sum(1).mean())
    assert found["aECE"] > 0


def test_a_constant_answer_is_as_good_as_chance() -> None:
    found = evaluate(torch.zeros(8, 4), torch.arange(8) % 4)
    assert found["top1"] == 25.0


def test_what_is_not_a_number_is_not_right() -> None:
    logits = torch.eye(4)
    logits[1, 2] = float("nan")
    logits[2] = float("nan")
    found = evaluate(logits, torch.arange(4))
    assert (found["top1"], found["top5"]) == (50.0, 50.0)
    assert found["ECE"] > 0


def test_fewer_than_five_classes() -> None:
    assert evaluate(torch.eye(3), torch.tensor([1, 2, 0]))["top5"] == 100.0


def test_labels_that_are_no_classes() -> None:
    with pytest.raises(DatasetMismatchError, match="labels from 0 to 3"):
        evaluate(torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]))


def test_nothing_to_evaluate() -> None:
    with pytest.raises(DatasetMismatchError, match=r"DATASETS\.TEST"):
        ClassificationEvaluator().evaluate()


def test_processes_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = ClassificationEvaluator()
    evaluator.process({"labels": torch.tensor([0])}, {"logits": torch.tensor([[1.0, 0.0]])})
    other = [ImageScores.of(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))]
    monkeypatch.setattr(comm, "gather", lambda data, dst: [data, other])
    assert evaluator.evaluate()["classification"]["top1"] == 50.0
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert evaluator.evaluate() == {}
