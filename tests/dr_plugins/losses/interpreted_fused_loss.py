"""The Triton kernels of the loss on a CPU; `test_fused` runs this in Triton's interpreter."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from dr_plugins.losses import fused as fused_module
from dr_plugins.losses import fused_check as fused_loss_check
from dr_plugins.losses import kd_loss as plain
from dr_plugins.losses.fused import fused_loss
from dr_plugins.losses.kd_loss import KDLoss
from dr_plugins.targets import SparseTargets
from tests.dr_plugins.losses.oracles import (
    oracle_dense,
    oracle_kl,
    random_logits,
    random_targets,
)
from tests.dr_plugins.losses.test_fused import DENSIFY, DTYPES, gradient_of

INF, NAN = float("inf"), float("nan")


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets `KDLoss` take the kernels on the CPU; notes that it did."""
    calls = []

    def noted(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(kwargs)
        return fused_loss(*args, **kwargs)

    monkeypatch.setattr(plain, "_fused_for", lambda logits: noted)
    return calls


# 5000 classes are two blocks, the second of them not full.
SIZES = [(1, 1), (2, 5), (10, 10), (128, 3), (1000, 10), (5000, 7)]
# Every variant of the kernels, and each size with either rule: the two meet in no line of them.
VARIANTS = list(itertools.product(DENSIFY, (1.0, 2.5), DTYPES))


@pytest.mark.parametrize(
    ("densify", "temperature", "dtype", "classes", "k"),
    [(*variant, *size) for variant, size in zip(VARIANTS, SIZES * 2, strict=True)],
)
def test_equals_oracle(
    densify: str, temperature: float, dtype: torch.dtype, classes: int, k: int
) -> None:
    targets = random_targets(classes + k, 6, classes, k, densify)
    logits = random_logits(classes, 6, classes).to(dtype).requires_grad_()
    losses = fused_loss(logits, targets, temperature)
    rows, slopes = oracle_kl(logits, oracle_dense(targets), temperature)
    assert losses.dtype == torch.float32
    np.testing.assert_allclose(losses.detach(), rows, rtol=1e-5, atol=1e-5)
    outer = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0, 1.0])
    gradient = gradient_of(losses, logits, outer)
    assert gradient.dtype == dtype
    expected = torch.from_numpy(slopes * outer.double().numpy()[:, None])
    rounding = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(gradient.double(), expected, rtol=rounding, atol=3e-6)


@pytest.mark.parametrize(
    ("weight", "temperature", "reduction"),
    [
        *((weight, t, "none") for weight in (0.0, 0.3, 1.0) for t in (1.0, 2.5)),
        *((0.3, 2.5, reduction) for reduction in ("batchmean", "sum")),
    ],
)
def test_kd_loss_takes_the_kernels(
    fused: Any, weight: float, temperature: float, reduction: str
) -> None:
    targets = random_targets(0, 6, 9, 3)
    assert -1 in targets.labels.tolist()
    logits = random_logits(0, 6, 9).float().requires_grad_()
    found = KDLoss(temperature, weight, reduction)(logits, targets)
    assert len(fused) == 1
    rows = plain.plain_rows(logits, targets, temperature, weight)
    expected = plain.reduce_rows(rows, reduction)
    torch.testing.assert_close(found, expected)
    outer = torch.ones_like(found)
    slopes = gradient_of(found, logits, outer), gradient_of(expected, logits, outer)
    torch.testing.assert_close(*slopes)


# Two blocks; with the largest logit in the second one, what was summed up before is scaled.
@pytest.mark.parametrize("largest", [17, 4500])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_labels_count_at_temperature_one(largest: int, shift: float) -> None:
    targets = random_targets(4, 6, 5000, 3)
    logits = random_logits(4, 6, 5000)
    logits[:, largest] = 40
    logits = (logits + shift).float().requires_grad_()
    dense = torch.from_numpy(oracle_dense(targets))
    exact = logits.detach().double().requires_grad_()
    rows = 6.25 * F.kl_div(F.log_softmax(exact / 2.5, 1), dense, reduction="none").sum(1)
    labelled = F.cross_entropy(exact, targets.labels, ignore_index=-1, reduction="none")
    expected = 0.7 * rows + 0.3 * labelled
    losses = fused_loss(logits, targets, 2.5, 0.3)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-5)
    outer = torch.linspace(-1, 1, 6)
    slopes = gradient_of(losses, logits, outer), gradient_of(expected, exact, outer.double())
    torch.testing.assert_close(
        slopes[0].double(), slopes[1], rtol=1e-3 if shift else 1e-5, atol=1e-5
    )


def test_what_the_kernels_leave_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_FUSED_DEVICES", ("cpu",))
    logits = torch.zeros(2, 3)
    assert plain._fused_for(logits) is fused_loss
    assert plain._fused_for(torch.nn.Parameter(logits)) is fused_loss
    assert plain._fused_for(logits.double()) is None
    assert plain._fused_for(logits[:0]) is None
    with FakeTensorMode() as mode:
        assert plain._fused_for(mode.from_tensor(logits)) is None
    monkeypatch.setattr(plain, "_fused_for", None)  # is not asked
    KDLoss()(logits, torch.full((2, 3), 1 / 3))
    KDLoss()(logits, torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("densify", DENSIFY)
def test_cross_entropy(fused: Any, densify: str) -> None:
    targets, logits = random_targets(1, 6, 9, 3, densify), random_logits(1, 6, 9).float()
    for reduction in ("mean", "sum", "none"):
        expected = F.cross_entropy(logits, targets.dense(), reduction=reduction)
        found = F.cross_entropy(logits, targets, reduction=reduction)
        torch.testing.assert_close(found, expected)
    assert fused == [{"with_entropy": False}] * 3


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_large_logits(shift: float) -> None:
    targets = random_targets(2, 4, 6000, 10)
    logits = (100 * random_logits(2, 4, 6000) + shift).float()
    rows, _ = oracle_kl(logits, oracle_dense(targets))
    np.testing.assert_allclose(fused_loss(logits, targets), rows, rtol=2e-6)


def test_a_listed_logit_that_dwarfs_the_others() -> None:
    """A sum over all classes from which the listed ones are taken away would keep no digit."""
    targets = SparseTargets([[0, 1]], [[0.5, 0.0]], num_classes=6)
    logits = torch.tensor([[0.0, -1e30, 1.0, 2.0, 3.0, 4.0]])
    rows, _ = oracle_kl(logits, oracle_dense(targets))
    np.testing.assert_allclose(fused_loss(logits, targets), rows, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_probabilities_of_any_type(dtype: torch.dtype) -> None:
    targets = random_targets(3, 4, 20, 3).to(dtype)
    found = random_logits(3, 4, 20).float().requires_grad_()
    expected = found.detach().clone().requires_grad_()
    losses = fused_loss(found, targets), plain.plain_rows(expected, targets)
    torch.testing.assert_close(*losses)
    ones = torch.ones(4)
    slopes = gradient_of(losses[0], found, ones), gradient_of(losses[1], expected, ones)
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("densify", DENSIFY)
@pytest.mark.parametrize("blocks", [1, 2])
def test_logits_that_are_not_finite(densify: str, blocks: int) -> None:
    """As PyTorch's operations answer; the strange ones in the first and in the last block."""
    classes = 5 if blocks == 1 else 5000
    rows = torch.zeros(9, classes)
    rows[0, 0] = rows[1, -1] = -INF  # a class without mass, or with a share
    rows[2, 1] = rows[3, :3] = -INF  # with mass
    rows[4, :] = -INF
    rows[5, 2], rows[6, -1], rows[7, 0] = INF, NAN, INF
    rows[8, : min(classes - 1, 4500)] = -INF  # all of the first block
    ids, probs = [[1, 2]] * 8 + [[classes - 1, -1]], [[0.75, 0.25]] * 4 + [[0.5, 0.25]] * 5
    targets = SparseTargets(ids, probs, num_classes=classes, densify=densify)
    found, expected = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    losses = fused_loss(found, targets)
    peers = plain.plain_rows(expected, targets)
    torch.testing.assert_close(losses, peers, equal_nan=True)
    assert {str(x) for x in losses.tolist()} >= {"inf", "nan"}
    ones = torch.ones(9)
    slopes = gradient_of(losses, found, ones), gradient_of(peers, expected, ones)
    torch.testing.assert_close(*slopes, equal_nan=True)


def test_rows_without_mass() -> None:
    ids, probs = [[0, 1, 2], [1, -1, 2]], [[0.0, 0.0, 0.0], [0.0, NAN, 0.0]]
    for densify in DENSIFY:
        targets = SparseTargets(ids, probs, num_classes=3, densify=densify)
        logits = torch.tensor([[1.0, 2.0, 3.0]] * 2, requires_grad=True)
        losses = fused_loss(logits, targets)
        peers = plain.plain_rows(logits, targets)
        torch.testing.assert_close(losses, peers)
        ones = torch.ones(2)
        slopes = gradient_of(losses, logits, ones), gradient_of(peers, logits, ones)
        torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("layout", ["rows of a wider tensor", "transposed", "every other column"])
def test_strides(layout: str) -> None:
    targets, wide = random_targets(3, 4, 20, 3), random_logits(3, 40, 40).float()
    logits = {
        "rows of a wider tensor": wide[:4, 5:25],
        "transposed": wide[:20, :4].T,
        "every other column": wide[:4, ::2],
    }[layout].requires_grad_()
    rows, slopes = oracle_kl(logits, oracle_dense(targets))
    losses = fused_loss(logits, targets)
    np.testing.assert_allclose(losses.detach(), rows, rtol=1e-5, atol=1e-6)
    # The gradient of a sum is one number for all rows, in memory too.
    gradient = gradient_of(losses.sum(), logits, torch.tensor(1.0))
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("densify", DENSIFY)
def test_differentiating_twice(densify: str) -> None:
    targets = random_targets(0, 3, 9, 3, densify)
    logits = random_logits(0, 3, 9).float().requires_grad_()
    outer, direction = torch.tensor([1.0, -2.0, 3.0], requires_grad=True), torch.randn(3, 9)

    def derivatives(losses: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (slope,) = torch.autograd.grad(losses, logits, outer, create_graph=True)
        return slope, *torch.autograd.grad(slope, (logits, outer), direction)

    found = derivatives(fused_loss(logits, targets, 2.0, 0.3))
    expected = derivatives(plain.plain_rows(logits, targets, 2.0, 0.3))
    torch.testing.assert_close(found, expected)


# Compilation


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets everything take the kernels on the CPU, after they were checked there."""
    monkeypatch.setattr(plain, "_FUSED_DEVICES", ("cpu",))
    fused_loss_check._found.clear()
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("criterion", "backend"),
    [
        (KDLoss(2.0, 0.3), "aot_eager"),
        (KDLoss(2.0, 0.3), "inductor"),
        (torch.nn.CrossEntropyLoss(), "aot_eager"),
    ],
)
def test_compiles_to_the_kernels(on_the_cpu: None, criterion: Any, backend: str) -> None:
    graphs = []

    def recorded(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    compiled = torch.compile(criterion, fullgraph=True, backend=recorded)
    for batch in (5, 3, 2):
        targets = random_targets(batch, batch, 9, 3)
        logits = random_logits(batch, batch, 9).float().requires_grad_()
        found, expected = compiled(logits, targets), criterion(logits, targets)
        torch.testing.assert_close(found, expected)
        slopes = torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits)
        torch.testing.assert_close(*slopes)
    assert len(graphs) == 2  # the second one for any batch
    for graph in graphs:
        assert torch.ops.dr_plugins.fused_loss.default in {
            node.target for node in graph.graph.nodes
        }
        assert "log_softmax" not in graph.code


def test_functional_gradient(on_the_cpu: None) -> None:
    targets, logits = random_targets(0, 3, 9, 3), random_logits(0, 3, 9).float()
    found = torch.func.grad(lambda x: KDLoss()(x, targets))(logits)
    expected = torch.func.grad(lambda x: plain.plain_rows(x, targets).mean())(logits)
    torch.testing.assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operation_keeps_pytorchs_rules(dtype: torch.dtype) -> None:
    targets = random_targets(0, 3, 9, 3)
    logits = random_logits(0, 3, 18).to(dtype)[:, ::2].requires_grad_()
    arguments = (targets.ids, targets.probs, targets.labels, True, 2.0, 0.3, True)
    torch.library.opcheck(fused_module._operation, (logits, *arguments))


@pytest.mark.slow
def test_kernels_that_do_not_work_are_not_compiled(
    on_the_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(fused_module, "fused_loss", broken)
    targets, logits = random_targets(0, 3, 9, 3), random_logits(0, 3, 9).float()
    compiled = torch.compile(KDLoss(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, targets), plain.plain_rows(logits, targets).mean())
    fused_loss_check._found.clear()


def test_agreement_is_noticed() -> None:
    with torch.inference_mode():
        assert fused_loss_check._disagreement(fused_loss, torch.device("cpu")) < 1e-5
