"""Losses in PyTorch's operations, without dense targets."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from dr_plugins.targets import SparseTargets

# `nll_loss` skips rows with this label; unlike with -100, every label out of range raises.
_NO_LABEL = -(2**31)


def plain_rows(
    logits: Tensor,
    target: SparseTargets | Tensor,
    temperature: float = 1.0,
    label_weight: float = 0.0,
) -> Tensor:
    """Return the loss of each row, in PyTorch's operations; see `KDLoss` for the formula.

    Args:
        logits: floating point [B, C].
        target: see `KDLoss.rows`.
        temperature: T, > 0.
        label_weight: w, in [0, 1].

    Returns:
        float32 [B], or float64 if the logits are.
    """
    log_probs = log_softmax(logits, temperature)
    rows = _kl_divergence(log_probs, target) * temperature**2
    if label_weight == 0:
        return rows
    if temperature != 1:
        log_probs = log_softmax(logits)
    return (1 - label_weight) * rows + label_weight * _label_loss(log_probs, target)


def full_precision(device_type: str) -> AbstractContextManager[object]:
    """Context without autocast."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()  # some devices, such as "meta", have no autocast


def log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities of logits / T, [B, C], in float32, or float64 if the logits are."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if temperature != 1:
        logits = logits.to(dtype) / temperature
    return F.log_softmax(logits, dim=1, dtype=dtype)


def _kl_divergence(log_probs: Tensor, target: SparseTargets | Tensor) -> Tensor:
    if isinstance(target, SparseTargets):
        crossed, entropy = sparse_terms(log_probs, target)
        return crossed - entropy
    if not target.is_floating_point():
        return _label_loss(log_probs, target)
    probs = target.to(log_probs.dtype)
    return (torch.xlogy(probs, probs) - _weighted(probs, log_probs)).sum(1)


def sparse_terms(log_probs: Tensor, target: SparseTargets) -> tuple[Tensor, Tensor]:
    """Cross-entropy of `log_probs` to the targets and entropy of the targets, [B] each."""
    probs, share = target.normalized(dtype=log_probs.dtype)
    padding = target.ids < 0
    crossed = _weighted(probs, log_probs.gather(1, target.ids.clamp(min=0))).sum(1)
    entropy = torch.xlogy(probs, probs).sum(1)
    if target.densify == "smooth":
        # Sum over the classes that are not listed; padding goes to an extra column. Subtracting the
        # listed classes from the sum would cancel: NaN if one is -inf, few digits if they dominate.
        slots = torch.where(padding, target.num_classes, target.ids)
        rest = F.pad(log_probs, (0, 1)).scatter_(1, slots, 0.0).sum(1, keepdim=True)
        unlisted = target.num_classes - (~padding).sum(1, keepdim=True)
        crossed = crossed + _weighted(share, rest).squeeze(1)
        entropy = entropy + (unlisted * torch.xlogy(share, share)).squeeze(1)
    return -crossed, -entropy


def _weighted(weights: Tensor, log_probs: Tensor) -> Tensor:
    """Product in which 0 * -inf is 0."""
    return torch.where(weights != 0, weights * log_probs, 0.0)


def _label_loss(log_probs: Tensor, target: SparseTargets | Tensor) -> Tensor:
    """Cross-entropy to the labels, [B]; 0 for rows without a label."""
    if isinstance(target, SparseTargets):
        return F.nll_loss(log_probs, target.labels, ignore_index=-1, reduction="none")
    if target.is_floating_point():
        raise ValueError("label_weight needs labels, got probabilities: pass SparseTargets")
    return F.nll_loss(log_probs, target.long(), ignore_index=_NO_LABEL, reduction="none")
