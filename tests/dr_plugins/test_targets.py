from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from dr_plugins.targets import SparseTargets
from tests.dr_plugins.example_targets import assert_same, example, example_with_extras


def oracle_dense(ids: np.ndarray, probs: np.ndarray, num_classes: int, densify: str) -> np.ndarray:
    """The documented rules, class by class in float64."""
    dense = np.zeros((len(ids), num_classes))
    for row, row_ids, row_probs in zip(dense, ids, probs, strict=True):
        listed = {int(i): float(p) for i, p in zip(row_ids, row_probs, strict=True) if i >= 0}
        others = [c for c in range(num_classes) if c not in listed]
        total = sum(listed.values())
        divisor = total if total > 0 and (densify == "zeros" or total > 1 or not others) else 1.0
        for i, p in listed.items():
            row[i] = p / divisor
        for c in others if densify == "smooth" else []:
            row[c] = max(0.0, 1 - total) / len(others)
    return dense


def random_rows(
    seed: int, batch: int, num_classes: int, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with padding in any place, zeros, sums below and above 1."""
    rng = np.random.default_rng(seed)
    ids = np.full((batch, k), -1)
    for row in ids:
        count = rng.integers(0, min(k, num_classes) + 1)
        row[rng.permutation(k)[:count]] = rng.permutation(num_classes)[:count]
    mass = rng.choice([0.0, 0.5, 0.98, 1.0, 1.0005], (batch, 1))
    probs = rng.dirichlet(np.full(k, 0.3), batch) * mass * (rng.random((batch, k)) < 0.9)
    return ids, probs.astype(np.float32), rng.integers(-1, num_classes, batch)


# Densify


@given(
    seed=st.integers(0, 2**32),
    batch=st.integers(0, 4),
    num_classes=st.integers(1, 12),
    k=st.integers(1, 14),
    densify=st.sampled_from(["smooth", "zeros"]),
)
def test_dense_equals_oracle(seed: int, batch: int, num_classes: int, k: int, densify: str) -> None:
    ids, probs, labels = random_rows(seed, batch, num_classes, k)
    targets = SparseTargets(ids, probs, labels, num_classes, densify)
    dense = targets.dense()
    assert dense.dtype == torch.float32
    assert dense.is_contiguous()
    assert dense.shape == targets.shape == (batch, num_classes)
    expected = oracle_dense(ids, probs, num_classes, densify)
    np.testing.assert_allclose(dense.numpy(), expected, rtol=2e-6, atol=1e-7)
    for row in range(batch):
        assert torch.equal(targets[row].dense(), dense[row])


def test_dense_by_hand() -> None:
    smooth = [
        [0.0625, 0.0625, 0.25, 0.0625, 0.5, 0.0625],
        [0, 0, 0, 1, 0, 0],
        [0.125, 0, 0.21875, 0.21875, 0.21875, 0.21875],
    ]
    zeros = [[0, 0, 1 / 3, 0, 2 / 3, 0], [0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]]
    assert torch.equal(example().dense(), torch.tensor(smooth))
    torch.testing.assert_close(example().dense("zeros"), torch.tensor(zeros))
    assert torch.equal(example(densify="zeros").dense("smooth"), torch.tensor(smooth))


def test_zeros_does_not_apply_softmax_again() -> None:
    targets = SparseTargets([[7]], [[1.0]], num_classes=10, densify="zeros")
    assert targets.dense()[0, 7] == 1.0


@pytest.mark.parametrize(
    ("ids", "smooth"),
    [
        ([1, 2], [0.5, 0, 0, 0.5]),  # nothing but zeros: uniform over the others
        ([-1, -1], [0.25] * 4),  # nothing but padding: uniform over all
        ([3, 0, 1, 2], [0.0] * 4),  # zeros everywhere: nothing to share
    ],
)
def test_rows_without_mass(ids: list[int], smooth: list[float]) -> None:
    targets = SparseTargets(ids, [0.0] * len(ids), num_classes=4)
    assert targets.dense().tolist() == smooth
    assert targets.dense("zeros").tolist() == [0.0] * 4


def test_padding_prob_is_ignored() -> None:
    targets = SparseTargets([[1, -1]], [[0.5, float("nan")]], num_classes=3)
    assert targets.dense().tolist() == [[0.25, 0.5, 0.25]]


def test_rounded_probs_are_divided_by_their_sum() -> None:
    above = SparseTargets([0, 1], [0.75, 0.5], num_classes=3).dense()
    torch.testing.assert_close(above, torch.tensor([0.6, 0.4, 0.0]))
    every = SparseTargets([0, 1, 2], [0.25, 0.125, 0.125], num_classes=3).dense()
    assert every.tolist() == [0.5, 0.25, 0.25]


# Construction


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"ids": [[4, 6], [3, -1], [0, 1]]}, ValueError, r"ids hold 6, expected \[-1, 6\)"),
        ({"ids": [[4, -2], [3, -1], [0, 1]]}, ValueError, "ids hold -2"),
        ({"ids": [[4, 4], [3, -1], [0, 1]]}, ValueError, "class 4 twice"),
        ({"ids": [[4.0, 2.0]] * 3}, TypeError, "ids have dtype torch.float32"),
        ({"ids": [[True, False]] * 3}, TypeError, "ids have dtype torch.bool"),
        ({"ids": [[4, 2]]}, ValueError, r"probs have shape \(3, 2\) and labels \(3,\)"),
        ({"ids": [[[4]]]}, ValueError, r"ids have shape \(1, 1, 1\), expected \[B, k\]"),
        ({"ids": [[]] * 3}, TypeError, "ids have dtype"),
        ({"ids": torch.empty(3, 0).long()}, ValueError, r"\(3, 0\), expected .* k >= 1"),
        ({"probs": [[0.5, -0.25], [1, 0], [0, 0]]}, ValueError, "probs hold -0.25.*softmax"),
        ({"probs": [[0.5, float("nan")], [1, 0], [0, 0]]}, ValueError, "probs hold nan"),
        ({"probs": [[0.5, float("inf")], [1, 0], [0, 0]]}, ValueError, "probs hold inf"),
        ({"probs": [[1, 0]] * 3}, TypeError, "probs have dtype torch.int64"),
        ({"labels": [6, 0, 0]}, ValueError, "labels hold 6"),
        ({"labels": [0.0, 0.0, 0.0]}, TypeError, "labels have dtype"),
        ({"labels": [0]}, ValueError, r"labels \(1,\), expected \(3, 2\) and \(3,\)"),
        ({"num_classes": 0}, ValueError, "num_classes is 0"),
        ({"densify": "softmax"}, ValueError, "densify is 'softmax'"),
        ({"temperature": 0.0}, ValueError, "temperature is 0"),
        ({"temperature": float("inf")}, ValueError, "temperature is inf"),
    ],
)
def test_invalid_fields(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        example(**changes)


def test_num_classes_is_required() -> None:
    with pytest.raises(ValueError, match=r"num_classes is 0.*pass num_classes="):
        SparseTargets([1], [1.0])


def test_fields_are_converted() -> None:
    ids = np.array([[1, 2]], dtype=np.uint16)
    targets = SparseTargets(ids, np.array([[0.5, 0.25]], dtype=np.float16), num_classes=3)
    assert targets.ids.dtype == torch.int64
    assert targets.probs.dtype == torch.float32
    assert targets.labels.tolist() == [-1]
    assert SparseTargets([1], [1.0], 2, 3).labels.shape == ()


def test_immutable() -> None:
    targets = example()
    with pytest.raises(AttributeError, match="immutable, cannot set 'probs'"):
        targets.probs = torch.zeros(3, 2)
    with pytest.raises(AttributeError):
        targets.name = "new"  # type: ignore[attr-defined]


def test_unchecked_looks_at_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = example(ids=torch.tensor([[4, 2], [3, -1], [0, 1]]))

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("values were read")

    for name in ("item", "__bool__", "__int__", "__float__", "tolist", "nonzero", "sort"):
        monkeypatch.setattr(torch.Tensor, name, fail)
    SparseTargets.unchecked(targets.ids, targets.probs, targets.labels, 6)
    targets.to("cpu", non_blocking=True)[1:][0].to(torch.float16)
    targets.dense()


# One-hot and stack


def test_one_hot() -> None:
    labels = torch.tensor([2, 0, 4])
    targets = SparseTargets.one_hot(labels, num_classes=5, k=3)
    assert targets.ids.tolist() == [[2, -1, -1], [0, -1, -1], [4, -1, -1]]
    assert torch.equal(targets.labels, labels)
    for method in ("smooth", "zeros"):
        assert torch.equal(targets.dense(method), F.one_hot(labels, 5).float())
    single = SparseTargets.one_hot(2, num_classes=5, k=3)
    assert_same(single, targets[0])


@pytest.mark.parametrize("label", [-1, 5])
def test_one_hot_needs_a_class(label: int) -> None:
    with pytest.raises(ValueError, match=rf"labels hold {label}, expected \[0, 5\)"):
        SparseTargets.one_hot([0, label], num_classes=5)
    with pytest.raises(ValueError, match="k is 0"):
        SparseTargets.one_hot([0], num_classes=5, k=0)


def test_extras_without_a_row_for_each_sample_are_refused() -> None:
    with pytest.raises(ValueError, match=r"extras\['entropy'\] has shape \(2,\)"):
        example(extras={"entropy": torch.zeros(2)})


def test_stack_inverts_indexing() -> None:
    targets = example(densify="zeros")
    assert_same(SparseTargets.stack([targets[i] for i in range(3)]), targets)
    assert_same(SparseTargets.stack(iter(targets)), targets)
    assert_same(SparseTargets.stack(example_with_extras()), example_with_extras())


def test_stack_mixes_one_hot_and_topk_rows() -> None:
    topk = SparseTargets([4, 2], [0.5, 0.25], 4, 6, temperature=2.0)
    samples = [topk, SparseTargets.one_hot(3, 6, k=2, temperature=2.0)]
    assert_same(SparseTargets.stack(samples), example()[:2])


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [example(), example()],
        [SparseTargets.one_hot(0, 5), SparseTargets.one_hot(0, 6)],
        [SparseTargets.one_hot(0, 5), SparseTargets.one_hot(0, 5, k=2)],
        [SparseTargets.one_hot(0, 5), SparseTargets.one_hot(0, 5, densify="zeros")],
        [SparseTargets.one_hot(0, 5), SparseTargets.one_hot(0, 5, temperature=2.0)],
        [SparseTargets.one_hot(0, 5, temperature=t) for t in (1.0, 2.0)],
        [example()[0], example_with_extras()[0]],
    ],
    ids=[
        "none",
        "batches",
        "num_classes",
        "k",
        "densify",
        "unknown temperature",
        "temperature",
        "extras",
    ],
)
def test_stack_needs_samples_that_agree(samples: list[SparseTargets]) -> None:
    with pytest.raises(ValueError, match=r"cannot stack .* pad"):
        SparseTargets.stack(samples)
