"""`KDLoss` on sparse targets as two Triton kernels, for the loss and for its gradient.

PyTorch's operations keep several tensors of the logits' size between forward and backward; here the
gradient is the only one. Both kernels compute in float32. Sums over the classes add only terms of
the same sign, so nothing cancels, however large the logits are.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from dr_plugins.losses.plain import full_precision, plain_rows
from dr_plugins.targets import SparseTargets

_MOST_COLUMNS = 4096  # of the logits per step


def fused_loss(
    logits: Tensor,
    targets: SparseTargets,
    temperature: float = 1.0,
    label_weight: float = 0.0,
    with_entropy: bool = True,
) -> Tensor:
    """Loss of each row; see `dr_plugins.losses.kd_loss.KDLoss` for the formula.

    `torch.compile` sees a single operation, ``dr_plugins::fused_loss``. Second derivatives use
    PyTorch's operations, and their memory.

    Args:
        logits: float32, bfloat16 or float16 ``[B, C]`` on a GPU, B >= 1.
        targets: Targets of B samples, on the same GPU.
        temperature: T, > 0.
        label_weight: w, in [0, 1].
        with_entropy: Whether to include the targets' entropy, for the KL divergence instead of the
            cross-entropy.

    Returns:
        float32 ``[B]``.
    """
    ids, probs, labels = targets.ids.contiguous(), targets.probs.contiguous(), targets.labels
    weights = float(temperature), float(label_weight)  # always floats, so Triton compiles once
    smooth = targets.densify == "smooth"
    inputs = (logits, ids, probs, labels.contiguous(), smooth, *weights, with_entropy)
    # Both compute the same. The autograd function is twice as fast to call, but cannot be traced.
    rows = _operation(*inputs)[0] if torch.compiler.is_compiling() else _FusedLoss.apply(*inputs)
    return cast(Tensor, rows)


def _losses(
    logits: Tensor,
    ids: Tensor,
    probs: Tensor,
    labels: Tensor,
    smooth: bool,
    temperature: float,
    label_weight: float,
    with_entropy: bool,
) -> tuple[Tensor, Tensor]:
    """Losses [B], and statistics of each row's logits for the gradient, [B, 3]."""
    logits = _with_whole_rows(logits)
    batch, classes = logits.shape
    rows, stats = _like_losses(logits)
    block = _block(classes)
    with _on_device_of(logits):
        _forward[(batch,)](
            logits, logits.stride(0), ids, probs, labels, rows, stats,
            classes, ids.shape[1], temperature, label_weight,
            smooth=smooth, with_entropy=with_entropy, with_labels=label_weight > 0,
            softened=temperature != 1,
            slots=triton.next_power_of_2(ids.shape[1]), block=block, num_warps=_warps(block),
        )  # fmt: skip
    return rows, stats


def _gradient(
    grad_rows: Tensor,
    stats: Tensor,
    logits: Tensor,
    ids: Tensor,
    probs: Tensor,
    labels: Tensor,
    smooth: bool,
    temperature: float,
    label_weight: float,
) -> Tensor:
    logits = _with_whole_rows(logits)
    batch, classes = logits.shape
    grad = _like_logits(logits)
    block = _block(classes)
    with _on_device_of(logits):
        _backward[(batch, triton.cdiv(classes, block))](
            logits, logits.stride(0), ids, probs, labels, stats,
            grad_rows, grad_rows.stride(0), grad,
            classes, ids.shape[1], temperature, label_weight,
            smooth=smooth, with_labels=label_weight > 0, softened=temperature != 1,
            slots=triton.next_power_of_2(ids.shape[1]), block=block, num_warps=_warps(block),
        )  # fmt: skip
    return grad


def _like_losses(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    batch = logits.shape[0]
    return (
        torch.empty(batch, dtype=torch.float32, device=logits.device),
        torch.empty(batch, 3, dtype=torch.float32, device=logits.device),
    )


def _like_logits(logits: Tensor) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _with_whole_rows(logits: Tensor) -> Tensor:
    return logits if logits.stride(1) == 1 else logits.contiguous()


def _on_device_of(logits: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device."""
    if logits.is_cuda and logits.get_device() != torch.cuda.current_device():
        return torch.cuda.device(logits.device)
    return nullcontext()


def _save(ctx: Any, inputs: tuple[Any, ...], stats: Tensor) -> None:
    logits, ids, probs, labels, *ctx.options, _ = inputs
    ctx.save_for_backward(stats, logits, ids, probs, labels)


def _save_of_operation(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    _save(ctx, inputs, output[1])


def _backward_by(gradient: Callable[..., Tensor]) -> Callable[..., Any]:
    def backward(ctx: Any, grad_rows: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # the gradient itself will be differentiated
            result = _plain_gradient(grad_rows, *ctx.saved_tensors[1:], *ctx.options)
        else:
            result = gradient(grad_rows, *ctx.saved_tensors, *ctx.options)
        return result, None, None, None, None, None, None, None

    return backward


def _plain_gradient(
    grad_rows: Tensor,
    logits: Tensor,
    ids: Tensor,
    probs: Tensor,
    labels: Tensor,
    smooth: bool,
    temperature: float,
    label_weight: float,
) -> Tensor:
    densify = "smooth" if smooth else "zeros"
    targets = SparseTargets.unchecked(ids, probs, labels, logits.shape[1], densify)
    with full_precision(logits.device.type):
        rows = plain_rows(logits, targets, temperature, label_weight)
    return torch.autograd.grad(rows, logits, grad_rows, create_graph=True)[0]


class _FusedLoss(torch.autograd.Function):
    # Without `setup_context`, for which PyTorch inspects signatures at every call.
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        rows, stats = _losses(*inputs)
        _save(ctx, inputs, stats)
        return rows

    backward = staticmethod(_backward_by(_gradient))


# Explicit, because older PyTorch cannot infer schemas from postponed annotations.
_TARGETS = "Tensor ids, Tensor probs, Tensor labels, bool smooth, float temperature"
_operation = torch.library.custom_op(
    "dr_plugins::fused_loss",
    _losses,
    mutates_args=(),
    schema=f"(Tensor logits, {_TARGETS}, float label_weight, bool with_entropy)"
    " -> (Tensor, Tensor)",
)
_operation.register_fake(_like_losses)
_gradient_operation = torch.library.custom_op(
    "dr_plugins::fused_loss_gradient",
    _gradient,
    mutates_args=(),
    schema=f"(Tensor grad_rows, Tensor stats, Tensor logits, {_TARGETS}, float label_weight)"
    " -> Tensor",
)
_gradient_operation.register_fake(lambda grad_rows, stats, logits, *_: _like_logits(logits))
_operation.register_autograd(_backward_by(_gradient_operation), setup_context=_save_of_operation)


def _block(classes: int) -> int:
    return min(max(triton.next_power_of_2(classes), 128), _MOST_COLUMNS)


def _warps(block: int) -> int:
    return 4 if block <= 1024 else 8


@triton.jit
def _row_targets(  # type: ignore[no-untyped-def]
    ids, probs, row, classes, k, smooth: tl.constexpr, slots: tl.constexpr
):
    """Probabilities of one row, normalized like `SparseTargets.normalized`.

    Returns ids and probabilities of the listed classes, the factor that the probabilities were
    multiplied by, the share of each class that is not listed, and the number of those classes.
    """
    slot = tl.arange(0, slots)
    listed = tl.load(ids + row * k + slot, slot < k, -1)
    is_listed = (listed >= 0) & (listed < classes)
    values = tl.load(probs + row * k + slot, is_listed, 0.0).to(tl.float32)
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
    softened: tl.constexpr, slots: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    listed, is_listed, values, _, share, unlisted = _row_targets(
        ids, probs, row, classes, k, smooth, slots
    )
    line = logits + row * stride
    scale = 1.0 / temperature
    # Running maximum, sums of exponentials relative to it (at temperature T, and at 1 for the
    # labels), and total distance of the `seen` unlisted classes below it.
    top, mass, hard_mass, below, seen = -float("inf"), 0.0, 0.0, 0.0, 0.0
    for start in range(0, classes, block):
        column = start + tl.arange(0, block)
        inside = column < classes
        z = tl.load(line + column, inside, -float("inf")).to(tl.float32)
        before, top = top, tl.maximum(top, tl.max(z, 0))
        base = tl.where(top == -float("inf"), 0.0, top)
        sunk = tl.where(before == -float("inf"), 0.0, before - base)
        z -= base
        mass = mass * tl.exp(sunk * scale) + tl.sum(tl.exp(z * scale), 0)
        if with_labels and softened:
            hard_mass = hard_mass * tl.exp(sunk) + tl.sum(tl.exp(z), 0)
        if smooth:
            free = inside
            here = is_listed & (listed >= start) & (listed < start + block)
            if tl.sum(here.to(tl.int32), 0) > 0:
                for slot in range(k):
                    free = free & (column != tl.load(ids + row * k + slot).to(tl.int32))
            below += seen * sunk + tl.sum(tl.where(free, z, 0.0), 0)
            seen += tl.sum(free.to(tl.float32), 0)
    base = tl.where(top == -float("inf"), 0.0, top)
    log_mass = tl.log(mass)

    z = tl.load(line + listed, is_listed, 0.0).to(tl.float32) - base
    loss = tl.sum(tl.where(values > 0, values * (log_mass - z * scale), 0.0), 0)
    if smooth:
        loss += tl.where(share > 0, share * (unlisted * log_mass - below * scale), 0.0)
    if with_entropy:
        loss += tl.sum(_x_log_x(values), 0) + unlisted * _x_log_x(share)
    loss *= temperature * temperature
    if with_labels:
        log_hard = tl.log(hard_mass) if softened else log_mass
        label = tl.load(labels + row)
        z = tl.load(line + label, (label >= 0) & (label < classes), 0.0).to(tl.float32) - base
        crossed = tl.where(label >= 0, log_hard - z, 0.0)
        loss = (1 - label_weight) * loss + label_weight * crossed
        tl.store(stats + row * 3 + 2, log_hard)
    tl.store(rows + row, loss)
    tl.store(stats + row * 3, base)
    tl.store(stats + row * 3 + 1, log_mass)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    logits, stride, ids, probs, labels, stats, grad_rows, grad_stride, grad,
    classes, k, temperature, label_weight,
    smooth: tl.constexpr, with_labels: tl.constexpr, softened: tl.constexpr,
    slots: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * block
    column = start + tl.arange(0, block)
    inside = column < classes
    listed, is_listed, values, factor, share, unlisted = _row_targets(
        ids, probs, row, classes, k, smooth, slots
    )
    z = tl.load(logits + row * stride + column, inside, 0.0).to(tl.float32)
    z -= tl.load(stats + row * 3)
    softmax = tl.exp(z * (1.0 / temperature) - tl.load(stats + row * 3 + 1))
    target = tl.zeros([block], tl.float32) + share
    here = is_listed & (listed >= start) & (listed < start + block)
    if tl.sum(here.to(tl.int32), 0) > 0:
        for slot in range(k):
            value = tl.load(probs + row * k + slot).to(tl.float32) * factor
            is_here = column == tl.load(ids + row * k + slot).to(tl.int32)
            target = tl.where(is_here, value, target)
    total = tl.sum(values, 0) + unlisted * share
    outer = tl.load(grad_rows + row * grad_stride)
    result = outer * temperature * (softmax * total - target)
    if with_labels:
        label = tl.load(labels + row)
        if softened:
            softmax = tl.exp(z - tl.load(stats + row * 3 + 2))
        difference = softmax - tl.where(column == label, 1.0, 0.0)
        labelled = tl.where(label >= 0, outer * difference, 0.0)
        result = (1 - label_weight) * result + label_weight * labelled
    tl.store(grad + row * classes + column, result.to(grad.dtype.element_ty), inside)
