"""Time and memory of `KDLoss` on a GPU, against a dense target and against labels."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report import Row, compare, report
from dr_plugins import KDLoss, SparseTargets

BATCH, TOPK, REPEATS = 1024, 10, 50
CLASSES = (1_000, 21_841, 100_000)
FEW = 1_000  # up to this number of classes, the loss should be as fast as with labels
DEVICE = "cuda"
Loss = Callable[[Tensor], Tensor]


def main(out: Path) -> None:
    """Measure and report."""
    if not torch.cuda.is_available():
        print("\nLoss on a GPU: skipped, this machine has none")
        return
    rows = []
    for classes in CLASSES:
        for dtype in (torch.float32, torch.bfloat16):
            rows += _rows(classes, dtype)
    title = (
        f"Loss, forward and backward: batch {BATCH}, k = {TOPK}, {torch.cuda.get_device_name()}, "
        f"by the GPU alone (CUDA graphs) or with launching; memory beyond logits and targets"
    )
    report(title, rows, out / "loss.json")


def _rows(classes: int, dtype: torch.dtype) -> list[Row]:
    targets, labels = _targets(classes), torch.randint(classes, (BATCH,), device=DEVICE)
    peers: dict[str, Loss] = {
        "labels": lambda logits: F.cross_entropy(logits, labels),
        "dense": lambda logits: F.kl_div(
            F.log_softmax(logits, 1, dtype=torch.float32), targets.dense(), reduction="batchmean"
        ),
    }
    logits = torch.randn(BATCH, classes, device=DEVICE).to(dtype).requires_grad_()
    criterion = KDLoss()

    def loss_of(logits: Tensor) -> Tensor:
        return criterion(logits, targets)

    ours = _captured(loss_of, logits)
    bytes_ours = _peak(loss_of, logits)
    rows = []
    for name, loss in peers.items():
        mine, theirs, ratio = compare(ours, _captured(loss, logits), rounds=7)
        what = f"{classes} classes, {str(dtype).removeprefix('torch.')}"
        hold = 1 / 1.1 if name == "labels" and classes <= FEW else 0.0
        hold = 1.5 if name == "dense" and classes > FEW else hold
        rows.append(Row(f"time, {what}", name, "us", mine * 1e6, theirs * 1e6, ratio, hold))
        # Where a model's forward pass keeps the GPU busy, it hides what the CPU takes to launch.
        launched = _launched(loss_of, logits), _launched(loss, logits)
        mine, theirs, ratio = compare(*launched, rounds=7)
        what_launched = f"time with launching, {what}"
        rows.append(Row(what_launched, name, "us", mine * 1e6, theirs * 1e6, ratio, 0.0))
        peak = _peak(loss, logits)
        hold = 2.0 if name == "dense" and classes > FEW else 0.0
        sizes = bytes_ours / 2**20, peak / 2**20
        rows.append(Row(f"memory, {what}", name, "MiB", *sizes, peak / bytes_ours, hold))
    return rows


def _targets(classes: int) -> SparseTargets:
    top = torch.randn(BATCH, classes, device=DEVICE).mul_(3).softmax(1).topk(TOPK)
    return SparseTargets(top.indices, top.values, num_classes=classes)


def _captured(loss: Loss, logits: Tensor) -> Callable[[], int]:
    """Repeat forward and backward on the GPU alone, without the CPU's time to launch it."""

    def step() -> None:
        torch.autograd.grad(loss(logits), logits)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay() -> int:
        for _ in range(REPEATS):
            graph.replay()
        torch.cuda.synchronize()
        return REPEATS

    return replay


def _launched(loss: Loss, logits: Tensor) -> Callable[[], int]:
    """Repeat forward and backward as a training loop calls them."""

    def steps() -> int:
        for _ in range(REPEATS):
            torch.autograd.grad(loss(logits), logits)
        torch.cuda.synchronize()
        return REPEATS

    return steps


def _peak(loss: Loss, logits: Tensor) -> int:
    """Return the peak of allocated bytes, minus those allocated before."""
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(loss(logits), logits)
    return torch.cuda.max_memory_allocated() - before
