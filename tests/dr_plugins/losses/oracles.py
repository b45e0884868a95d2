"""Random targets and logits, and the loss on them by other means: the rules in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dr_plugins.targets import SparseTargets


def random_targets(
    seed: int, batch: int, num_classes: int, k: int, densify: str = "smooth", padding: bool = True
) -> SparseTargets:
    rng = np.random.default_rng(seed)
    ids = np.full((batch, k), -1)
    for row in ids:
        count = rng.integers(0, min(k, num_classes) + 1) if padding else k
        row[rng.permutation(k)[:count]] = rng.permutation(num_classes)[:count]
    probs = rng.dirichlet(np.full(k, 0.3), batch) * rng.choice(
        [0, 0.5, 0.98, 1, 1.0005], (batch, 1)
    )
    probs = probs * (rng.random((batch, k)) < 0.9)
    labels = rng.integers(-1, num_classes, batch)
    return SparseTargets(ids, probs.astype(np.float32), labels, num_classes, densify)


def random_logits(seed: int, batch: int, num_classes: int, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, num_classes, generator=generator, dtype=torch.float64) * scale


def oracle_dense(targets: SparseTargets) -> np.ndarray:
    """The documented rules, class by class in float64."""
    dense = np.zeros(targets.shape)
    for row, ids, probs in zip(dense, targets.ids.tolist(), targets.probs.tolist(), strict=True):
        listed = {i: p for i, p in zip(ids, probs, strict=True) if i >= 0}
        others = [c for c in range(targets.num_classes) if c not in listed]
        total = sum(listed.values())
        scale = total > 0 and (targets.densify == "zeros" or total > 1 or not others)
        for i, p in listed.items():
            row[i] = p / total if scale else p
        for c in others if targets.densify == "smooth" else []:
            row[c] = max(0.0, 1 - total) / len(others)
    return dense


def oracle_kl(
    logits: torch.Tensor, dense: np.ndarray, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """KL divergence times T^2 of each row, and its gradient to the logits, in float64."""
    z = logits.detach().double().numpy() / temperature
    z = z - z.max(1, keepdims=True)
    log_probs = z - np.log(np.exp(z).sum(1, keepdims=True))
    log_dense = np.log(np.where(dense > 0, dense, 1))
    rows = np.where(dense > 0, dense * (log_dense - np.where(dense > 0, log_probs, 0)), 0).sum(1)
    gradient = np.exp(log_probs) * dense.sum(1, keepdims=True) - dense
    return rows * temperature**2, gradient * temperature


def value_and_gradient(
    criterion: Any, logits: torch.Tensor, target: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.detach().requires_grad_()
    loss = criterion(logits, target)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return loss.detach(), gradient
