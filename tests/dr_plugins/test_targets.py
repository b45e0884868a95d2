from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dr_plugins.targets import SparseTargets


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


def example(**changes: Any) -> SparseTargets:
    fields: dict[str, Any] = {
        "ids": [[4, 2], [3, -1], [0, 1]],
        "probs": [[0.5, 0.25], [1.0, 0.0], [0.125, 0.0]],
        "labels": [4, 3, -1],
        "num_classes": 6,
        "temperature": 2.0,
    }
    return SparseTargets(**(fields | changes))


def assert_same(got: SparseTargets, expected: SparseTargets) -> None:
    assert got.ids.dtype == torch.int64
    assert got.labels.dtype == torch.int64
    assert torch.equal(got.ids, expected.ids)
    assert torch.equal(got.probs, expected.probs)
    assert got.probs.dtype == expected.probs.dtype
    assert torch.equal(got.labels, expected.labels)
    assert (got.num_classes, got.densify) == (expected.num_classes, expected.densify)
    assert got.temperature == expected.temperature


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


def test_stack_inverts_indexing() -> None:
    targets = example(densify="zeros")
    assert_same(SparseTargets.stack([targets[i] for i in range(3)]), targets)
    assert_same(SparseTargets.stack(iter(targets)), targets)


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
    ],
    ids=["none", "batches", "num_classes", "k", "densify", "unknown temperature", "temperature"],
)
def test_stack_needs_samples_that_agree(samples: list[SparseTargets]) -> None:
    with pytest.raises(ValueError, match=r"cannot stack .* pad"):
        SparseTargets.stack(samples)


# Behaving like a tensor


@pytest.mark.parametrize(
    "index",
    [
        slice(0, 3, 2),
        slice(-1, None),
        [2, 0],
        torch.tensor([1, 1]),
        torch.tensor([True, False, True]),
    ],
    ids=str,
)
def test_index_along_batch(index: Any) -> None:
    targets = example()
    part = targets[index]
    assert torch.equal(part.dense(), targets.dense()[index])
    assert torch.equal(part.labels, targets.labels[index])


def test_index_of_one_row() -> None:
    targets = example()
    for index in (1, -2, torch.tensor(1), np.int64(1)):
        assert_same(targets[index], SparseTargets([3, -1], [1.0, 0.0], 3, 6, temperature=2.0))
    with pytest.raises(IndexError):
        targets[3]
    assert len(list(targets)) == 3


@pytest.mark.parametrize(
    "index", [(0, 1), (slice(None), 0), None, ..., True, torch.zeros(1, 1).long()], ids=str
)
def test_index_of_classes_is_refused(index: Any) -> None:
    with pytest.raises(TypeError, match="expected an index of rows"):
        example()[index]


def test_shape() -> None:
    targets = example()
    assert (len(targets), targets.shape, targets.size()) == (3, (3, 6), (3, 6))
    assert (targets.size(0), targets.size(1), targets.size(-1)) == (3, 6, 6)
    assert targets.device == torch.device("cpu")
    single = targets[0]
    assert single.shape == (6,)
    with pytest.raises(TypeError, match="no len"):
        len(single)
    with pytest.raises(TypeError, match="no rows"):
        single[0]


def test_repr() -> None:
    assert repr(example()) == (
        "SparseTargets(batch=3, k=2, num_classes=6, densify='smooth', temperature=2.0, "
        "device='cpu')"
    )
    assert repr(example()[0]) == (
        "SparseTargets(k=2, num_classes=6, densify='smooth', temperature=2.0, device='cpu')"
    )


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("meta",), {}),
        ((torch.device("meta"),), {"non_blocking": True}),
        ((), {"device": torch.device("meta"), "non_blocking": True}),
        (("meta", torch.float16, True), {}),
        ((), {"device": "meta", "dtype": torch.bfloat16}),
        ((torch.empty(0, device="meta"),), {}),
    ],
)
def test_to_moves_all(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    moved = example().to(*args, **kwargs)
    assert {moved.device.type, moved.ids.device.type, moved.labels.device.type} == {"meta"}
    assert moved.probs.dtype == torch.empty(0).to(*args, **kwargs).dtype
    assert moved.ids.dtype == moved.labels.dtype == torch.int64
    assert moved.shape == (3, 6)


def test_to_dtype_changes_probs_only() -> None:
    assert_same(example().to(torch.float16).to(dtype=torch.float32), example())
    assert example().to(torch.float16).dense().dtype == torch.float32
    with pytest.raises(TypeError, match=r"torch\.int64: leave out the dtype"):
        example().to(torch.int64)


def test_to_passes_non_blocking_on(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, seen, original = example(), [], torch.Tensor.to

    def spy(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(kwargs.get("non_blocking") or args[-1])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", spy)
    targets.to(device="cpu", non_blocking=True)
    targets.to("cpu", torch.float32, True)
    assert seen == [True] * 6
    seen.clear()
    targets.cpu()  # who reads at once must not read before the copy has ended
    assert not any(flag is True for flag in seen)
    assert len(seen) == 3


def test_cpu_and_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same(example().cpu(), example())
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(SparseTargets, "to", lambda self, *a, **k: calls.append((*a, k)))
    example().cuda()
    example().cuda(1, non_blocking=True)
    assert calls == [
        (torch.device("cuda"), {"non_blocking": False}),
        (torch.device("cuda", 1), {"non_blocking": True}),
    ]


def test_pin_memory_pins_all(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: set[int] = set()
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: self.data_ptr() in pinned)

    def pin(self: torch.Tensor) -> torch.Tensor:
        out = self.clone()
        pinned.add(out.data_ptr())
        return out

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    targets = example()
    copied = torch.utils.data._utils.pin_memory.pin_memory([targets])[0]
    assert not targets.is_pinned()
    assert copied.is_pinned()
    assert_same(copied, targets)


def accuracy_of_torchvision(output: torch.Tensor, target: Any) -> Any:
    """What torchvision's reference scripts call `accuracy`, in its steps."""
    if target.ndim == 2:
        target = target.max(dim=1)[1]
    return output.topk(1, 1)[1].t().eq(target[None]).sum()


def accuracy_of_timm(output: torch.Tensor, target: Any) -> Any:
    return pytest.importorskip("timm.utils").accuracy(output, target)


LOGITS = torch.eye(3, 6)


@pytest.mark.parametrize(
    "operation",
    [
        *(lambda t, f=f: getattr(torch, f)(t) for f in ("argmax", "isnan", "numel", "max")),
        *(lambda t, f=f: getattr(torch, f)(t, 1) for f in ("softmax", "mul", "add", "topk")),
        *(lambda t, f=f: getattr(torch, f)(LOGITS, t) for f in ("eq", "add", "mul", "equal")),
        *(lambda t, f=f: getattr(t, f)() for f in ("argmax", "max", "long", "float", "dim")),
        *(lambda t, f=f: getattr(t, f)(1) for f in ("eq", "reshape", "unsqueeze", "view")),
        *(lambda t, f=f: getattr(t, f) for f in ("ndim", "dtype", "T", "is_cuda")),
        *(lambda t, f=f: getattr(F, f)(LOGITS, t) for f in ("kl_div", "nll_loss", "mse_loss")),
        lambda t: F.binary_cross_entropy_with_logits(LOGITS, t),
        lambda t: F.one_hot(t, 6),
        lambda t: t == LOGITS,
        lambda t: torch.eye(3, 6) == t,
        lambda t: LOGITS.argmax(1) != t,
        lambda t: t == t[:],
        lambda t: t != 1,
        lambda t: LOGITS.eq(t),
        lambda t: LOGITS * t,
        lambda t: t * LOGITS,
        lambda t: 0.9 * t + 0.1,
        lambda t: t / 6,
        lambda t: 1 - t,
        lambda t: LOGITS.t() @ t,
        lambda t: -t,
        lambda t: t > 0,
        lambda t: t > LOGITS,
        lambda t: np.asarray(t),
        lambda t: LOGITS.numpy() == t,
        lambda t: np.zeros((3, 6)) * t,
        lambda t: np.argmax(t),
        lambda t: accuracy_of_timm(LOGITS, t),
        lambda t: accuracy_of_torchvision(LOGITS, t),
    ],
)
def test_what_tensors_can_is_refused_with_what_to_use(operation: Any) -> None:
    with pytest.raises((TypeError, AttributeError), match=r"targets\.labels.*targets\.dense\(\)"):
        operation(example())


def test_they_are_found_in_collections() -> None:
    targets = example()
    assert targets in [targets]
    assert {targets: 1}[targets] == 1
    assert not hasattr(targets, "argmax")


# Travelling


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
def test_copies(copier: Any) -> None:
    assert_same(copier(example(densify="zeros")), example(densify="zeros"))


def test_pickle() -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert_same(pickle.loads(pickle.dumps(example(), protocol)), example())


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
@pytest.mark.parametrize(
    "context",
    [None, "fork", pytest.param("spawn", marks=pytest.mark.slow)],
)
def test_dataloader(context: str | None) -> None:
    targets = example(densify="zeros")
    loader = DataLoader(
        [targets[i % 3] for i in range(6)],  # type: ignore[arg-type]
        batch_size=3,
        num_workers=0 if context is None else 2,
        multiprocessing_context=context,
        collate_fn=SparseTargets.stack,
        pin_memory=True,
    )
    batches = list(loader)
    assert len(batches) == 2
    for batch in batches:
        assert_same(batch, targets)
        tensors = (batch.ids, batch.probs, batch.labels)
        assert all(t.is_shared() for t in tensors) or context is None or batch.is_pinned()


def test_prefetch_loader_of_timm() -> None:
    prefetch_loader = pytest.importorskip("timm.data.loader").PrefetchLoader
    targets = example()
    loader = [(torch.zeros(3, 3, 2, 2, dtype=torch.uint8), targets)] * 2
    batches = list(prefetch_loader(loader, device=torch.device("cpu")))
    assert len(batches) == 2
    for _, got in batches:
        assert_same(got, targets)
