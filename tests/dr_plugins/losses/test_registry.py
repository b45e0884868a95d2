"""Losses by name, and losses that users write."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from dr_plugins import KDLoss, SparseTargets
from dr_plugins.errors import LossError
from dr_plugins.losses import build_loss, loss_names, registry
from tests.own_loss import ReverseKL

LOGITS = torch.tensor([[0.5, -1.0, 2.0, 0.0], [1.0, 1.0, -2.0, 0.3]])
TARGETS = SparseTargets([[2, 0], [1, 3]], [[0.7, 0.2], [0.8, 0.1]], num_classes=4, temperature=2.0)


def test_names() -> None:
    loss = build_loss("KDLoss", temperature=2.0)
    assert type(loss) is KDLoss
    assert loss.temperature == 2.0
    assert "KDLoss" in loss_names()


def test_a_loss_that_a_user_wrote() -> None:
    loss = build_loss("tests.own_loss:ReverseKL", temperature=2.0)
    assert type(loss) is ReverseKL
    own = (LOGITS / 2).softmax(1)
    expected = 4 * F.kl_div(TARGETS.dense().log(), own, reduction="batchmean")
    torch.testing.assert_close(loss(LOGITS, TARGETS), expected)
    sums = build_loss("tests.own_loss:ReverseKL", temperature=2.0, reduction="sum")
    torch.testing.assert_close(sums(LOGITS, TARGETS), 2 * expected)
    logits = LOGITS.clone().requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(logits, TARGETS), expected)
    with pytest.raises(ValueError, match=r"temperature 2\.0, the loss 1\.0"):
        ReverseKL()(LOGITS, TARGETS)
    with pytest.raises(ValueError, match="5 classes, the targets 4"):
        loss(torch.zeros(2, 5), TARGETS)


@pytest.mark.parametrize("spec", ["KDLoss(label_weight=0.25)", "KDLoss(label_weight=.25,)"])
def test_options(spec: str) -> None:
    assert build_loss(spec, temperature=2.0, label_weight=1).label_weight == 0.25


def test_losses_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("Reverse", "tests.own_loss:ReverseKL", registry._GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    assert type(build_loss("Reverse")) is ReverseKL
    assert loss_names() == ["KDLoss", "Reverse"]


@pytest.mark.parametrize(
    ("spec", "options", "text"),
    [
        ("KLoss", {}, "'KLoss'.*KDLoss.*MODULE:CLASS"),
        ("", {}, "MODULE:CLASS"),
        ("tests.no_such_module:Loss", {}, "no_such_module.*PYTHONPATH"),
        ("tests.own_loss:Nothing", {}, "Nothing"),
        ("KDLoss:label_weight=1", {}, "unknown loss.*MODULE:CLASS"),
        ("torch.nn:CrossEntropyLoss", {}, "DistillationLoss"),
        ("torch:zeros", {}, "DistillationLoss"),
        ("tests.own_loss:ReverseKL", {"label_weight": 0.1}, "label_weight"),
        ("KDLoss(alpha=1)", {}, "alpha"),
        ("KDLoss(0.1)", {}, r"NAME\(key=value"),
        ("KDLoss(label_weight=0.1", {}, r"NAME\(key=value"),
        ("KDLoss(label_weight=print())", {}, r"NAME\(key=value"),
        ("KDLoss(**{'label_weight': 1})", {}, "LossError|None|label_weight"),
    ],
)
def test_what_is_no_loss(spec: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(LossError, match=text):
        build_loss(spec, **options)
    with pytest.raises(ValueError, match="label_weight is 3"):
        build_loss("KDLoss(label_weight=3)")
