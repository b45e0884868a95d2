"""Checking the Triton kernels of the loss on a device."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from dr_plugins.losses.plain import plain_rows
from dr_plugins.targets import SparseTargets

_TOLERANCE = 1e-4
_logger = logging.getLogger(__name__)


@torch.compiler.assume_constant_result
def kernels_work(device: torch.device) -> bool:
    """Return whether the kernels compile on a device and agree with PyTorch's operations there.

    Checked once per process and device; logs a warning if not.
    """
    if device not in _found:
        if _is_bad_moment(device):
            return False
        _found[device] = _try_kernels(device)
    return _found[device]


_found: dict[torch.device, bool] = {}


def _is_bad_moment(device: torch.device) -> bool:
    """Whether the check would fail or do harm for a temporary reason."""
    if torch._C._are_functorch_transforms_active():
        return True
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _try_kernels(device: torch.device) -> bool:
    try:
        from dr_plugins.losses.fused import fused_loss  # Triton takes a second to import

        difference = _disagreement(fused_loss, device)
        reason = f"it is off by {difference:.2g}" if difference > _TOLERANCE else None
    except torch.OutOfMemoryError:  # temporary, not a property of the kernels
        raise
    except Exception as error:  # no Triton, no C compiler, an unsupported device
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    if reason is not None:
        _logger.warning("KDLoss on %s without its Triton kernels, slower: %s", device, reason)
    return reason is None


@torch.inference_mode(False)
@torch.enable_grad()
def _disagreement(fused: Callable[..., Tensor], device: torch.device) -> float:
    """Largest difference in losses of about 10, and in their gradient."""
    generator = torch.Generator().manual_seed(0)
    # Independent of the process's defaults.
    kind: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}
    logits = 3 * torch.randn(4, 5000, generator=generator, **kind)
    order = torch.rand(4, 5000, generator=generator, **kind).argsort(1)
    ids, probs = order[:, :8], torch.full((4, 8), 0.1, **kind)
    targets = SparseTargets(ids, probs, ids[:, 0], 5000).to(device)
    both = []
    for rows in (plain_rows, fused):
        leaf = logits.to(device, copy=True).requires_grad_()
        losses = cast(Any, rows)(leaf, targets, label_weight=0.3)
        losses.sum().backward()
        both.append(torch.cat([losses.detach(), cast(Tensor, leaf.grad).flatten()]))
    difference = float((both[0] - both[1]).abs().max())
    return math.inf if math.isnan(difference) else difference
