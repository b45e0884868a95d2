"""PyTorch's cross-entropy of sparse targets."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from dr_plugins.losses import kd_loss as plain
from dr_plugins.losses.kd_loss import KDLoss
from dr_plugins.targets import SparseTargets
from tests.dr_plugins.losses.oracles import (
    oracle_dense,
    random_logits,
    random_targets,
    value_and_gradient,
)


@pytest.mark.parametrize("densify", ["smooth", "zeros"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_of_torch(densify: str, reduction: str) -> None:
    targets, logits = random_targets(0, 6, 9, 4, densify), random_logits(1, 6, 9)
    criterion = torch.nn.CrossEntropyLoss(reduction=reduction)
    got = value_and_gradient(criterion, logits, targets)
    expected = value_and_gradient(criterion, logits, torch.from_numpy(oracle_dense(targets)))
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"label_smoothing": 0.1}, "label_smoothing=0.1"),
        ({"weight": torch.ones(6)}, "weight=tensor"),
        ({"ignore_index": 0}, "ignore_index=0"),
        ({"reduction": "batchmean"}, "reduction is 'batchmean'"),
    ],
)
def test_cross_entropy_refuses_arguments(arguments: dict[str, Any], name: str) -> None:
    targets = SparseTargets.one_hot([1], 6)
    with pytest.raises(ValueError, match=name):
        F.cross_entropy(torch.zeros(1, 6), targets, **arguments)


def test_cross_entropy_refuses_targets_as_logits() -> None:
    targets = SparseTargets.one_hot([1], 6)
    with pytest.raises(TypeError, match="target is Tensor, expected SparseTargets"):
        F.cross_entropy(targets, torch.zeros(1, 6))
    with pytest.raises(TypeError, match="logits are SparseTargets"):
        F.cross_entropy(targets, targets)


def test_cross_entropy_says_once_what_it_is(caplog: pytest.LogCaptureFixture) -> None:
    plain._said.clear()
    targets = SparseTargets.one_hot([1], 6)
    with caplog.at_level(logging.INFO, "dr_plugins"):
        KDLoss()(torch.zeros(1, 6), targets)
        assert caplog.messages == []
        for _ in range(2):
            F.cross_entropy(torch.zeros(1, 6), targets)
    (message,) = caplog.messages
    assert "cross-entropy" in message


@pytest.mark.parametrize("compiled", [False, True])
def test_a_loss_of_another_temperature_is_an_error(compiled: bool) -> None:
    torch._dynamo.reset()
    targets = SparseTargets([[2, 0]], [[0.7, 0.2]], num_classes=4, temperature=3.0)
    one_hot = SparseTargets.one_hot([1], 4, k=2, temperature=3.0)
    losses: list[Any] = [KDLoss(), KDLoss(2.0), torch.nn.CrossEntropyLoss()]
    matching: Any = KDLoss(3.0)
    if compiled:
        *losses, matching = (torch.compile(x, backend="eager") for x in (*losses, matching))
    for target in (targets, one_hot, targets[:1], SparseTargets.stack([targets[0]]).to("cpu")):
        assert matching(torch.zeros(1, 4), target) > 0
        for loss in losses:
            with pytest.raises(ValueError, match=r"temperature 3\.0, the loss [12]\.0"):
                loss(torch.zeros(1, 4), target)
