"""Checks of a loss's arguments."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from dr_plugins.targets import SparseTargets
from dr_plugins.training.contract import Contract, RunFacts, Setting
from dr_plugins.utils.advice import advice

_ROUNDING = 0.02  # tolerance for sums of half-precision probabilities


def check_inputs(logits: Tensor, target: SparseTargets | Tensor, temperature: float) -> None:
    """Check that logits and targets match.

    Args:
        logits: floating point [B, C].
        target: see `DistillationLoss.rows`.
        temperature: temperature of the loss.

    Raises:
        ValueError: if shapes, class counts, devices or temperatures differ, or a label (on the
            CPU) is not a class.
        TypeError: if the type or dtype of an argument is not supported.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        got = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"logits are {got}, expected a floating-point tensor: pass model outputs")
    if not isinstance(target, (SparseTargets, Tensor)):  # torch 2.6 cannot compile a union
        raise TypeError(
            f"target is {type(target).__name__}: pass SparseTargets, probabilities or labels"
        )
    if logits.dim() != 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}, expected [B, C]: flatten them")
    if isinstance(target, Tensor) and not target.is_floating_point():
        _check_labels(logits, target)
    else:
        _check_probs(logits, target, temperature)
    if target.device != logits.device:
        raise ValueError(
            f"target is on {target.device}, logits on {logits.device}: use target.to(device)"
        )


def _check_probs(logits: Tensor, target: SparseTargets | Tensor, temperature: float) -> None:
    if len(target.shape) != 2 or target.shape[0] != logits.shape[0]:
        raise ValueError(
            f"target has shape {tuple(target.shape)}, expected {tuple(logits.shape)} like the "
            "logits: join samples with SparseTargets.stack"
        )
    run = RunFacts(
        num_classes=[Setting("the model", logits.shape[1])],
        temperatures=[Setting("the loss", temperature)],
    )
    stored = target.temperature if isinstance(target, SparseTargets) else None
    Contract(target.shape[1], stored).check_run(run, ValueError)
    if isinstance(target, Tensor) and _is_readable(target):
        _check_range(target)


def _check_range(probs: Tensor) -> None:
    if bool((probs < 0).any() | (probs.float().sum(1) > 1 + _ROUNDING).any()):
        raise ValueError(
            "target holds no probabilities: one is negative, or a row sums to more than 1; apply "
            "softmax to a teacher's logits"
        )


def _is_readable(target: Tensor) -> bool:
    """Whether values can be inspected without synchronizing with a GPU."""
    is_plain = target.device.type == "cpu" and not torch.compiler.is_compiling()
    return is_plain and type(target) in (Tensor, nn.Parameter) and not is_taken_apart()


def is_taken_apart() -> bool:
    """Whether `torch.func` or forward-mode differentiation traces each operation."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    if labels.dtype == torch.bool or labels.is_complex():
        raise TypeError(f"target is {labels.dtype}: pass probabilities or integer labels")
    batch, classes = logits.shape
    if labels.shape != (batch,):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, expected ({batch},): one per sample"
        )
    # On a GPU the check would synchronise; there the kernel asserts.
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    outside = labels[(labels < 0) | (labels >= classes)]
    if outside.numel():
        raise ValueError(
            f"label {int(outside[0])} is not in [0, {classes}), the classes of the model: "
            f"build it with as many classes as the dataset{advice('num_classes')}"
        )
