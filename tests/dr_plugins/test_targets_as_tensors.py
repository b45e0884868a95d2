"""Targets behave like a tensor where that is safe, and travel between processes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from dr_plugins.targets import SparseTargets
from tests.dr_plugins.example_targets import assert_same, example, example_with_extras


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


def test_extras_follow_the_samples() -> None:
    targets = example_with_extras()
    part = targets[torch.tensor([2, 0])]
    assert part.extras["entropy"].tolist() == [float("inf"), 0.5]
    assert part.extras["counts"].tolist() == [[4, 5], [0, 1]]
    assert targets[1].extras["entropy"].shape == ()
    moved = targets.to("meta", torch.float16)
    assert {tensor.device.type for tensor in moved.extras.values()} == {"meta"}
    assert moved.extras["entropy"].dtype == torch.float32
    for copied in (targets.cpu(), copy.deepcopy(targets), pickle.loads(pickle.dumps(targets))):
        assert_same(copied, targets)
    assert "extras=['entropy', 'counts']" in repr(targets)


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
    targets = example_with_extras()
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
