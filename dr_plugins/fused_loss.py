"""`KDLoss` on sparse targets as two Triton kernels: one reads the logits, one gives the gradient.

PyTorch's own operations keep several tensors of the logits' size between forward and backward; here
there is none besides the gradient. Both compute in float32. Only terms of one sign are added up
over the classes, so that nothing cancels, however large the logits are.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dr_plugins.targets import SparseTargets

__all__ = ["fused_loss"]

_MOST_COLUMNS = 4096  # of the logits at once


def fused_loss(
    logits: Tensor,
    targets: SparseTargets,
    temperature: float = 1.0,
    label_weight: float = 0.0,
    with_entropy: bool = True,
) -> Tensor:
    """Loss of each row; see `dr_plugins.loss.KDLoss` for the formula.

    Args:
        logits: float32, bfloat16 or float16 ``[B, C]`` on a GPU.
        targets: Of B samples, on the same GPU.
        temperature: T, > 0; 1 if there is a label weight.
        label_weight: w, in [0, 1].
        with_entropy: Whether to add the entropy term, which makes a divergence of a cross-entropy.

    Returns:
        float32 ``[B]``, differentiable once with respect to the logits.

    Raises:
        RuntimeError: In the backward pass, if it is differentiated twice.
    """
    assert temperature == 1 or label_weight == 0, "labels count at temperature 1"
    weights = float(temperature), float(label_weight)  # of one type, for which Triton compiles once
    options = (targets.densify == "smooth", *weights, with_entropy)
    ids, probs = targets.ids.contiguous(), targets.probs.contiguous()
    return _FusedLoss.apply(logits, ids, probs, targets.labels.contiguous(), options)


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, ids: Tensor, probs: Tensor, labels: Tensor, options: Any
    ) -> Tensor:
        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        batch, classes = logits.shape
        smooth, temperature, label_weight, with_entropy = options
        rows = torch.empty(batch, dtype=torch.float32, device=logits.device)
        stats = torch.empty(batch, 2, dtype=torch.float32, device=logits.device)
        block = _block(classes)
        with torch.cuda.device_of(logits):  # Triton launches on the current device
            _forward[(batch,)](
                logits, logits.stride(0), ids, probs, labels, rows, stats,
                classes, ids.shape[1], temperature, label_weight,
                smooth=smooth, with_entropy=with_entropy, with_labels=label_weight > 0,
                slots=triton.next_power_of_2(ids.shape[1]), block=block, num_warps=_warps(block),
            )  # fmt: skip
        ctx.save_for_backward(logits, ids, probs, labels, stats)
        ctx.options = options
        return rows

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor) -> Any:
        # `once_differentiable` would let a second derivative through as zero.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the loss of SparseTargets is differentiated twice, and on a GPU its kernels only "
                "know the first derivative: pass targets.dense(), or leave out create_graph=True"
            )
        logits, ids, probs, labels, stats = ctx.saved_tensors
        batch, classes = logits.shape
        smooth, temperature, label_weight, _ = ctx.options
        grad = torch.empty(batch, classes, dtype=logits.dtype, device=logits.device)
        block = _block(classes)
        with torch.cuda.device_of(logits):
            _backward[(batch, triton.cdiv(classes, block))](
                logits, logits.stride(0), ids, probs, labels, stats,
                grad_rows, grad_rows.stride(0), grad,
                classes, ids.shape[1], temperature, label_weight,
                smooth=smooth, with_labels=label_weight > 0,
                slots=triton.next_power_of_2(ids.shape[1]), block=block, num_warps=_warps(block),
            )  # fmt: skip
        return grad, None, None, None, None


def _block(classes: int) -> int:
    return min(max(triton.next_power_of_2(classes), 128), _MOST_COLUMNS)


def _warps(block: int) -> int:
    return 4 if block <= 1024 else 8


@triton.jit
def _row_targets(  # type: ignore[no-untyped-def]
    ids, probs, row, classes, k, smooth: tl.constexpr, slots: tl.constexpr
):
    """Probabilities of one row as `SparseTargets.normalized` gives them.

    Returns ids and probabilities of the listed classes, the factor that probabilities were
    multiplied with, the share of each class not listed, and how many those are.
    """
    slot = tl.arange(0, slots)
    listed = tl.load(ids + row * k + slot, slot < k, -1)
    is_listed = (listed >= 0) & (listed < classes)
    values = tl.load(probs + row * k + slot, is_listed, 0.0)
    total = tl.sum(values, 0)
    unlisted = (classes - tl.sum(is_listed.to(tl.int32), 0)).to(tl.float32)
    factor, share = 1.0, 0.0
    if smooth:
        if (total > 1) | (unlisted == 0):
            factor = tl.where(total > 0, 1.0 / total, 1.0)
        else:
            share = (1 - total) / unlisted
    else:
        factor = tl.where(total > 0, 1.0 / total, 1.0)
    return listed, is_listed, values * factor, factor, share, unlisted


@triton.jit
def _x_log_x(x):  # type: ignore[no-untyped-def]
    return tl.where(x > 0, x * tl.log(tl.where(x > 0, x, 1.0)), 0.0)


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    logits, stride, ids, probs, labels, rows, stats, classes, k, temperature, label_weight,
    smooth: tl.constexpr, with_entropy: tl.constexpr, with_labels: tl.constexpr,
    slots: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    listed, is_listed, values, _, share, unlisted = _row_targets(
        ids, probs, row, classes, k, smooth, slots
    )
    line = logits + row * stride
    # Maximum so far, sum of the exponentials below it, and how far the classes that are not listed
    # lie below it, in all: `seen` classes.
    top, mass, below, seen = -float("inf"), 0.0, 0.0, 0.0
    for start in range(0, classes, block):
        column = start + tl.arange(0, block)
        inside = column < classes
        z = tl.load(line + column, inside, -float("inf")).to(tl.float32) / temperature
        before, top = top, tl.maximum(top, tl.max(z, 0))
        base = tl.where(top == -float("inf"), 0.0, top)
        sunk = tl.where(before == -float("inf"), 0.0, before - base)
        mass = mass * tl.exp(sunk) + tl.sum(tl.exp(z - base), 0)
        if smooth:
            free = inside
            here = is_listed & (listed >= start) & (listed < start + block)
            if tl.sum(here.to(tl.int32), 0) > 0:
                for slot in range(k):
                    free = free & (column != tl.load(ids + row * k + slot))
            below += seen * sunk + tl.sum(tl.where(free, z - base, 0.0), 0)
            seen += tl.sum(free.to(tl.float32), 0)
    base = tl.where(top == -float("inf"), 0.0, top)
    log_mass = tl.log(mass)

    z = tl.load(line + listed, is_listed, 0.0).to(tl.float32) / temperature
    loss = tl.sum(tl.where(values > 0, values * (log_mass - (z - base)), 0.0), 0)
    if smooth:
        loss += tl.where(share > 0, share * (unlisted * log_mass - below), 0.0)
    if with_entropy:
        loss += tl.sum(_x_log_x(values), 0) + unlisted * _x_log_x(share)
    loss *= temperature * temperature
    if with_labels:
        label = tl.load(labels + row)
        z_label = tl.load(line + label, (label >= 0) & (label < classes), 0.0).to(tl.float32)
        crossed = tl.where(label >= 0, log_mass - (z_label - base), 0.0)
        loss = (1 - label_weight) * loss + label_weight * crossed
    tl.store(rows + row, loss)
    tl.store(stats + row * 2, base)
    tl.store(stats + row * 2 + 1, log_mass)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    logits, stride, ids, probs, labels, stats, grad_rows, grad_stride, grad,
    classes, k, temperature, label_weight,
    smooth: tl.constexpr, with_labels: tl.constexpr, slots: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * block
    column = start + tl.arange(0, block)
    inside = column < classes
    listed, is_listed, values, factor, share, unlisted = _row_targets(
        ids, probs, row, classes, k, smooth, slots
    )
    z = tl.load(logits + row * stride + column, inside, 0.0).to(tl.float32) / temperature
    base, log_mass = tl.load(stats + row * 2), tl.load(stats + row * 2 + 1)
    softmax = tl.exp(z - base - log_mass)
    target = tl.zeros([block], tl.float32) + share
    here = is_listed & (listed >= start) & (listed < start + block)
    if tl.sum(here.to(tl.int32), 0) > 0:
        for slot in range(k):
            value = tl.load(probs + row * k + slot) * factor
            target = tl.where(column == tl.load(ids + row * k + slot), value, target)
    total = tl.sum(values, 0) + unlisted * share
    outer = tl.load(grad_rows + row * grad_stride)
    result = outer * temperature * (softmax * total - target)
    if with_labels:
        label = tl.load(labels + row)
        difference = softmax - tl.where(column == label, 1.0, 0.0)
        labelled = tl.where(label >= 0, outer * difference, 0.0)
        result = (1 - label_weight) * result + label_weight * labelled
    tl.store(grad + row * classes + column, result.to(grad.dtype.element_ty), inside)
