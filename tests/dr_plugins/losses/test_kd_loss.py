from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed

from dr_plugins.losses.kd_loss import KDLoss
from dr_plugins.targets import SparseTargets
from tests.dr_plugins.losses.oracles import (
    oracle_dense,
    oracle_kl,
    random_logits,
    random_targets,
    value_and_gradient,
)

INF = float("inf")


# Values and gradients


@given(
    seed=st.integers(0, 2**32),
    batch=st.integers(1, 4),
    num_classes=st.integers(1, 12),
    k=st.integers(1, 14),
    densify=st.sampled_from(["smooth", "zeros"]),
    temperature=st.sampled_from([0.5, 1.0, 4.0]),
    scale=st.sampled_from([0.1, 3.0, 100.0]),
)
def test_equals_oracle(
    seed: int, batch: int, num_classes: int, k: int, densify: str, temperature: float, scale: float
) -> None:
    targets = random_targets(seed, batch, num_classes, k, densify)
    logits = random_logits(seed, batch, num_classes, scale).float()
    rows, gradient = oracle_kl(logits, oracle_dense(targets), temperature)
    criterion = KDLoss(temperature, reduction="none")
    got, got_gradient = value_and_gradient(criterion, logits, targets)
    # Rounding in proportion to the terms of the sum, of which the largest is max |log p| T^2.
    scale = temperature**2 * (1 + 10 * scale / temperature)
    np.testing.assert_allclose(got.numpy(), rows, rtol=2e-6, atol=1e-6 * scale)
    np.testing.assert_allclose(got_gradient.numpy(), gradient, rtol=1e-5, atol=2e-6 * temperature)
    dense, dense_gradient = value_and_gradient(criterion, logits, targets.dense())
    np.testing.assert_allclose(dense.numpy(), rows, rtol=2e-6, atol=1e-6 * scale)
    np.testing.assert_allclose(dense_gradient.numpy(), gradient, rtol=1e-5, atol=2e-6 * temperature)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("densify", ["smooth", "zeros"])
@pytest.mark.parametrize(("num_classes", "k"), [(1000, 10), (21841, 5), (10, 10), (10, 1)])
def test_equals_kl_div(num_classes: int, k: int, densify: str, temperature: float) -> None:
    targets = random_targets(0, 8, num_classes, k, densify, padding=False)
    logits = random_logits(1, 8, num_classes).float()

    def reference(logits: torch.Tensor, target: SparseTargets) -> torch.Tensor:
        log_probs = F.log_softmax(logits / temperature, 1)
        return F.kl_div(log_probs, target.dense(), reduction="batchmean") * temperature**2

    got, gradient = value_and_gradient(KDLoss(temperature), logits, targets)
    expected, expected_gradient = value_and_gradient(reference, logits, targets)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6 * temperature**2)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


def test_by_hand() -> None:
    targets = SparseTargets([[2, 0]], [[0.5, 0.25]], num_classes=4)
    logits = torch.zeros(1, 4)
    entropy = 0.5 * math.log(2) + 0.25 * math.log(4) + 2 * 0.125 * math.log(8)
    assert KDLoss()(logits, targets).item() == pytest.approx(math.log(4) - entropy, rel=1e-6)
    dense = torch.tensor([[0.25, 0.125, 0.5, 0.125]])
    same = targets.dense().log()
    assert torch.equal(targets.dense(), dense)
    assert KDLoss()(same, targets).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_large_logits_of_many_classes(shift: float, scale: float) -> None:
    targets = random_targets(3, 4, 21841, 10, padding=False)
    logits = (random_logits(3, 4, 21841, scale) + shift).float()
    rows, gradient = oracle_kl(logits, oracle_dense(targets))
    got, got_gradient = value_and_gradient(KDLoss(reduction="none"), logits, targets)
    np.testing.assert_allclose(got.numpy(), rows, rtol=1e-6, atol=2e-6)
    # The backward of log_softmax adds up C terms in float32, which costs F.kl_div the same digits.
    _, peer = value_and_gradient(
        lambda x, y: F.kl_div(F.log_softmax(x, 1), y.dense(), reduction="sum"), logits, targets
    )
    error = np.abs(got_gradient.numpy() - gradient).max()
    assert error <= 1.1 * np.abs(peer.numpy() - gradient).max() + 1e-6 < 1e-4


def test_listed_logits_that_dwarf_the_others() -> None:
    # The row sum of log-probabilities is 3e7; only the -5 and -0.1 of the classes not listed count.
    targets = SparseTargets([[0, 1, 2]], [[0.0, 0.0, 0.0]], num_classes=5)
    logits = torch.tensor([[-1e7, -1.1e7, -0.9e7, 0.0, -5.0]])
    rows, _ = oracle_kl(logits, oracle_dense(targets))
    np.testing.assert_allclose(KDLoss()(logits, targets).numpy(), rows[0], rtol=1e-6)


def test_all_zero_rows() -> None:
    logits = random_logits(0, 2, 5).float()
    nothing = SparseTargets([[0, 1], [-1, -1]], torch.zeros(2, 2), None, 5, "zeros")
    loss, gradient = value_and_gradient(KDLoss(reduction="none"), logits, nothing)
    assert loss.tolist() == [0, 0]
    assert not gradient.any()
    uniform = SparseTargets([[0, 1], [-1, -1]], torch.zeros(2, 2), None, 5)
    expected = torch.stack(
        [F.log_softmax(logits[0], 0)[2:].mean(), F.log_softmax(logits[1], 0).mean()]
    )
    expected = -expected - torch.tensor([3.0, 5.0]).log()
    torch.testing.assert_close(KDLoss(reduction="none")(logits, uniform), expected)


def test_padding_changes_nothing() -> None:
    logits = random_logits(0, 2, 9)
    lean = SparseTargets([[3, 1], [8, 0]], [[0.5, 0.25], [0.5, 0.0]], num_classes=9)
    ids = [[-1, 3, -1, 1], [8, -1, 0, -1]]
    probs = [[9.0, 0.5, float("nan"), 0.25], [0.5, -1.0, 0.0, 0.0]]
    padded = SparseTargets(ids, probs, num_classes=9)
    for got, expected in zip(
        value_and_gradient(KDLoss(2.0), logits, padded),
        value_and_gradient(KDLoss(2.0), logits, lean),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("reduction", ["batchmean", "sum", "none"])
def test_labels_are_one_hot_targets(reduction: str) -> None:
    logits, labels = random_logits(0, 6, 7).float(), torch.tensor([0, 6, 3, 3, 1, 5])
    plain = {"batchmean": "mean"}.get(reduction, reduction)
    expected = value_and_gradient(
        lambda x, y: F.cross_entropy(x, y, reduction=plain), logits, labels
    )
    targets = (
        labels,
        labels.to(torch.uint8),
        F.one_hot(labels, 7).float(),
        SparseTargets.one_hot(labels, 7, k=3),
        SparseTargets.one_hot(labels, 7, densify="zeros"),
    )
    for target in targets:
        got = value_and_gradient(KDLoss(reduction=reduction), logits, target)
        torch.testing.assert_close(got, expected)
    softened = KDLoss(2.0, reduction=reduction)(logits, labels)
    torch.testing.assert_close(softened, 4 * F.cross_entropy(logits / 2, labels, reduction=plain))


@pytest.mark.parametrize("reduction", ["batchmean", "sum", "none"])
def test_reduction(reduction: str) -> None:
    targets, logits = random_targets(0, 5, 9, 3), random_logits(0, 5, 9)
    rows, _ = oracle_kl(logits, oracle_dense(targets))
    expected = {"batchmean": rows.mean(), "sum": rows.sum(), "none": rows}[reduction]
    np.testing.assert_allclose(KDLoss(reduction=reduction)(logits, targets), expected, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_label_weight(temperature: float) -> None:
    targets, logits = random_targets(0, 6, 9, 3), random_logits(0, 6, 9)
    assert -1 in targets.labels.tolist()
    rows, _ = oracle_kl(logits, oracle_dense(targets), temperature)
    labelled = [
        0.0 if label < 0 else F.cross_entropy(row, torch.tensor(label)).item()
        for row, label in zip(logits, targets.labels.tolist(), strict=True)
    ]
    for weight in (0.0, 0.3, 1.0):
        expected = (1 - weight) * rows + weight * np.array(labelled)
        got = KDLoss(temperature, weight, "none")(logits, targets)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
        mean = KDLoss(temperature, weight)(logits, targets)
        np.testing.assert_allclose(mean, expected.mean(), rtol=1e-6, atol=1e-6)


def test_label_weight_of_integer_labels() -> None:
    logits, labels = random_logits(0, 3, 4), torch.tensor([0, 3, 1])
    expected = 0.75 * 4 * F.cross_entropy(logits / 2, labels) + 0.25 * F.cross_entropy(
        logits, labels
    )
    torch.testing.assert_close(KDLoss(2.0, 0.25)(logits, labels), expected)
    with pytest.raises(ValueError, match="label_weight needs labels"):
        KDLoss(label_weight=0.5)(logits, torch.full((3, 4), 0.25))


def test_empty_batch() -> None:
    targets, logits = random_targets(0, 0, 9, 3), torch.zeros(0, 9, requires_grad=True)
    for target in (targets, targets.dense(), targets.labels):
        assert KDLoss(reduction="none")(logits, target).shape == (0,)
        assert KDLoss(reduction="sum")(logits, target).item() == 0
        assert KDLoss()(logits, target).isnan()
    assert F.kl_div(logits, targets.dense(), reduction="batchmean").isnan()


# Logits that are not finite


def test_infinite_logits_of_classes_without_mass() -> None:
    logits = torch.tensor([[1.0, -INF, 0.0]])
    expected = F.cross_entropy(logits, torch.tensor([0]))
    gradient = torch.tensor([[-0.26894142, 0.0, 0.26894142]])
    for target in (
        torch.tensor([0]),
        torch.tensor([[1.0, 0.0, 0.0]]),
        SparseTargets.one_hot([0], 3),
        SparseTargets([[0, 1]], [[1.0, 0.0]], num_classes=3),
        SparseTargets([[0]], [[0.5]], num_classes=3, densify="zeros"),
    ):
        got = value_and_gradient(KDLoss(), logits, target)
        torch.testing.assert_close(got, (expected, gradient))


@pytest.mark.parametrize(
    ("ids", "probs", "densify"),
    [
        ([[1]], [[0.5]], "smooth"),
        ([[1]], [[0.5]], "zeros"),
        ([[0]], [[0.5]], "smooth"),
        ([[1, 0]], [[0.2, 0.2]], "smooth"),
    ],
)
def test_infinite_logits_of_classes_with_mass(ids: Any, probs: Any, densify: str) -> None:
    logits = torch.tensor([[1.0, -INF, 0.0]])
    targets = SparseTargets(ids, probs, num_classes=3, densify=densify)
    for target in (targets, targets.dense()):
        loss, gradient = value_and_gradient(KDLoss(label_weight=0.0), logits, target)
        assert loss == INF
        assert gradient.isfinite().all()
    labelled = SparseTargets(ids, probs, [0], 3, densify)
    assert KDLoss(label_weight=0.25)(logits, labelled) == INF


@pytest.mark.parametrize("row", [[-INF] * 3, [INF, 0.0, 0.0], [float("nan"), 0.0, 0.0]])
def test_meaningless_logits_give_nan(row: list[float]) -> None:
    targets = SparseTargets([[1]], [[0.5]], num_classes=3)
    assert KDLoss()(torch.tensor([row]), targets).isnan()


# Precision


def targets_of_every_kind() -> SparseTargets:
    ids = [[2, 0, -1], [1, -1, -1], [4, 3, 2], [0, 1, 2], [-1, -1, -1]]
    probs = [[0.5, 0.25, 0], [1.0, 0, 0], [0.25, 0, 0.125], [0, 0, 0], [0, 0, 0]]
    return SparseTargets(ids, probs, [2, 1, -1, 0, -1], 5)


@pytest.mark.parametrize("densify", ["smooth", "zeros"])
def test_gradcheck(densify: str) -> None:
    kinds = targets_of_every_kind()
    targets = SparseTargets(kinds.ids, kinds.probs, kinds.labels, 5, densify)
    logits = random_logits(0, 5, 5).requires_grad_()
    every = SparseTargets([[1, 0]] * 5, [[0.75, 0.25]] * 5, [0] * 5, 5, densify)
    for target in (targets, every, targets.dense(), torch.tensor([0, 1, 2, 3, 4])):
        weight = 0.0 if torch.is_tensor(target) else 0.25
        criterion = KDLoss(2.0, weight, reduction="none")
        loss = partial(criterion, target=target)
        assert torch.autograd.gradcheck(loss, logits)
        assert torch.autograd.gradgradcheck(loss, logits, fast_mode=True)
    assert torch.autograd.gradcheck(lambda x: F.cross_entropy(x, targets), logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_half_precision_is_upcast(dtype: torch.dtype, temperature: float) -> None:
    targets, criterion = random_targets(0, 4, 1000, 5), KDLoss(temperature)
    logits = random_logits(0, 4, 1000).to(dtype)
    got, gradient = value_and_gradient(criterion, logits, targets)
    expected, expected_gradient = value_and_gradient(criterion, logits.float(), targets)
    assert got.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(got, expected)
    assert torch.equal(gradient, expected_gradient.to(dtype))
    stored_half = criterion(logits.float(), targets.to(torch.float16))
    torch.testing.assert_close(stored_half, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("target", [targets_of_every_kind(), targets_of_every_kind().dense()])
def test_autocast(dtype: torch.dtype, target: Any) -> None:
    logits, criterion = random_logits(0, 5, 5), KDLoss(2.0)
    with torch.autocast("cpu", dtype=dtype):
        for x in (logits, logits.float(), logits.to(dtype)):
            inside = criterion(x, target)
            with torch.autocast("cpu", enabled=False):
                assert torch.equal(inside, criterion(x, target))
        if isinstance(target, SparseTargets):
            assert F.cross_entropy(logits.to(dtype), target).dtype == torch.float32


def test_device_without_autocast() -> None:
    loss = KDLoss()(torch.zeros(5, 5, device="meta"), targets_of_every_kind().to("meta"))
    assert (loss.device.type, loss.dtype, loss.shape) == ("meta", torch.float32, ())


# Compilation


whole_graph = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 10),
    reason="torch 2.9 and older break the graph where autocast is asked for",
)


@whole_graph
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind", ["sparse", "zeros", "dense", "labels", "cross_entropy", "weighted"]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_without_graph_break(backend: str, kind: str) -> None:
    torch._dynamo.reset()
    criterion: Any = {
        "cross_entropy": torch.nn.CrossEntropyLoss(),
        "weighted": KDLoss(2.0, 0.3),
    }.get(kind, KDLoss(2.0))
    compiled = torch.compile(criterion, fullgraph=True, backend=backend)
    for batch in (5, 3):
        sparse = targets_of_every_kind()[:batch].to("cpu")
        target: Any = {
            "zeros": SparseTargets.one_hot([0, 4, 2, 1, 3][:batch], 5, k=3, densify="zeros"),
            "dense": sparse.dense(),
            "labels": torch.tensor([0, 4, 2, 1, 3][:batch]),
        }.get(kind, sparse)
        logits = random_logits(batch, batch, 5).float()
        got = value_and_gradient(compiled, logits, target)
        torch.testing.assert_close(got, value_and_gradient(criterion, logits, target))


@whole_graph
def test_compiled_step_moves_targets() -> None:
    torch._dynamo.reset()
    model, criterion = torch.nn.Linear(4, 5), KDLoss()

    def step(images: torch.Tensor, targets: SparseTargets) -> torch.Tensor:
        return criterion(model(images), targets.to("cpu", non_blocking=True)[1:])

    images, targets = torch.ones(4, 4), targets_of_every_kind()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images, targets), step(images, targets))


# Errors


@pytest.mark.parametrize(
    ("logits", "target", "error", "message"),
    [
        (torch.zeros(2, 5), SparseTargets.one_hot([1, 2], 6), ValueError,
         "model has 5 classes, the targets 6"),
        (torch.zeros(2, 5), torch.zeros(2, 6), ValueError, "5 classes, the targets 6"),
        (torch.zeros(2, 5), torch.tensor([1, 5]), ValueError,
         r"label 5 is not in \[0, 5\)"),
        (torch.zeros(2, 5), torch.tensor([-1, 1]), ValueError, "label -1 is not"),
        (torch.zeros(2, 5), torch.tensor([-100, 1]), ValueError, "label -100 is not"),
        (torch.zeros(2, 5), SparseTargets.one_hot([1], 5), ValueError,
         r"target has shape \(1, 5\), expected \(2, 5\)"),
        (torch.zeros(2, 5), SparseTargets.one_hot(1, 5), ValueError, r"shape \(5,\).*stack"),
        (torch.zeros(2, 5), torch.zeros(2), ValueError, r"target has shape \(2,\)"),
        (torch.zeros(2, 5), torch.zeros(2, 5).long(), ValueError, r"labels have shape \(2, 5\)"),
        (torch.zeros(2, 5), torch.tensor([1]), ValueError, r"labels have shape \(1,\)"),
        (torch.zeros(2, 5), torch.tensor([True, False]), TypeError, "target is torch.bool"),
        (torch.zeros(2, 5), [1, 2], TypeError, "target is list"),
        (torch.zeros(5), SparseTargets.one_hot(1, 5), ValueError, r"logits have shape \(5,\)"),
        (torch.zeros(2, 5).long(), torch.tensor([1, 2]), TypeError, "logits are torch.int64"),
        (None, torch.tensor([1, 2]), TypeError, "logits are NoneType"),
        (torch.zeros(2, 5), SparseTargets.one_hot([1, 2], 5).to("meta"), ValueError,
         r"target is on meta, logits on cpu: use target\.to\(device\)"),
    ],
)  # fmt: skip
def test_bad_inputs(logits: Any, target: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        KDLoss()(logits, target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": INF}, "temperature is inf"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"label_weight": 1.5}, "label_weight is 1.5"),
        ({"label_weight": -0.1}, "label_weight is -0.1"),
        ({"reduction": "mean"}, "reduction is 'mean', expected 'batchmean'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KDLoss(**arguments)


def test_repr() -> None:
    assert repr(KDLoss(2, 0.5)) == (
        "KDLoss(temperature=2, label_weight=0.5, reduction='batchmean')"
    )


def test_distributed_data_parallel_passes_targets_through(tmp_path: Path) -> None:
    class Criterion(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(4, 5)
            self.loss = KDLoss()

        def forward(self, images: torch.Tensor, targets: SparseTargets) -> torch.Tensor:
            return self.loss(self.head(images), targets)

    task, images, targets = Criterion(), torch.ones(5, 4), targets_of_every_kind()
    expected = task(images, targets)
    distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        loss = torch.nn.parallel.DistributedDataParallel(task)(images, targets)
        loss.backward()
    finally:
        distributed.destroy_process_group()
    torch.testing.assert_close(loss, expected)
    assert task.head.weight.grad is not None
    assert task.head.weight.grad.any()


@pytest.mark.parametrize(
    "target", [torch.tensor([[-0.1, 1.1]]), torch.tensor([[0.9, 0.8]]), torch.tensor([[3.0, -2.0]])]
)
def test_what_are_no_probabilities_is_refused(target: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"holds no probabilities.*apply softmax"):
        KDLoss()(torch.zeros(1, 2), target)


def test_probabilities_of_half_precision_are_probabilities() -> None:
    probs = torch.randn(64, 1000).softmax(1)
    for dtype in (torch.float16, torch.bfloat16):
        assert KDLoss()(torch.zeros(64, 1000), probs.to(dtype)) > 0
