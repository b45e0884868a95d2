"""Knowledge distillation from stored targets: KL divergence without dense targets."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dr_plugins.losses.base import DistillationLoss, reduce_rows
from dr_plugins.losses.checks import check_inputs, is_taken_apart
from dr_plugins.losses.plain import full_precision, log_softmax, plain_rows, sparse_terms
from dr_plugins.targets import SparseTargets, implements

_logger = logging.getLogger(__name__)
_IS_CROSS_ENTROPY = (
    "the loss is the cross-entropy to the stored answers, not the KL divergence: it is higher by "
    "their entropy, and has the same gradient"
)
_FUSED_DEVICES = ("cuda",)
_FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class KDLoss(DistillationLoss):
    """KL(target || softmax(logits / T)) * T^2, Hinton et al. 2015 (arXiv 1503.02531).

    The targets must already be softened by T. Equal to
    `F.kl_div(F.log_softmax(logits / T, 1), targets.dense(), reduction="batchmean") * T**2` up to
    rounding. With `label_weight` w the loss is (1 - w) * KL + w * CE(logits, label), where CE has
    temperature 1; rows whose label is -1 have no cross-entropy term.

    On a GPU, two Triton kernels compute the loss of `SparseTargets` and its gradient, without any
    other tensor of the logits' size; `torch.compile` sees them as single operations. Before first
    use on a device, they are compared there with PyTorch's operations. The logits must not be
    modified in place between forward and backward.

    A class without target mass contributes nothing, regardless of its logit. A logit of -inf on a
    class with target mass makes the loss of its row +inf ("smooth" assigns mass to every class),
    while the gradient stays finite. A row of -inf, a NaN or a logit of +inf results in NaN.

    Args:
        temperature: T, > 0; the same as the targets'.
        label_weight: w, in [0, 1].
        reduction: "batchmean" (sum over classes, mean over the batch; NaN for an empty batch),
            "sum", or "none" for one loss per sample, [B].

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> targets = SparseTargets([[2, 0]], [[0.7, 0.2]], num_classes=4)
        >>> KDLoss()(torch.zeros(1, 4), targets)
        tensor(0.5152)
    """

    def __init__(
        self, temperature: float = 1.0, label_weight: float = 0.0, reduction: str = "batchmean"
    ) -> None:
        super().__init__(temperature, reduction)
        if not 0 <= label_weight <= 1:
            raise ValueError(f"label_weight is {label_weight}, expected [0, 1]: 0 is KL only")
        self.label_weight = label_weight

    def rows(self, logits: Tensor, target: SparseTargets | Tensor) -> Tensor:
        """Return the loss of each sample.

        Args:
            logits: [B, C], floating point. Computed in float32, or float64 if the logits are.
            target: `SparseTargets`; or probabilities, floating point [B, C]; or labels in [0, C),
                integers [B], which are one-hot targets.

        Returns:
            [B]; float32, or float64 if the logits are.

        Raises:
            ValueError: if `label_weight` is used with probabilities, which have no labels.
        """
        fused = _fused_for(logits) if isinstance(target, SparseTargets) else None
        rows = plain_rows if fused is None else fused
        return rows(logits, target, self.temperature, self.label_weight)

    def extra_repr(self) -> str:
        """Arguments, for `repr`."""
        return (
            f"temperature={self.temperature}, label_weight={self.label_weight}, "
            f"reduction={self.reduction!r}"
        )


@implements(F.cross_entropy)
def cross_entropy(
    input: Tensor,
    target: SparseTargets,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Soft-target cross-entropy: `torch.nn.functional.cross_entropy` of `SparseTargets`.

    Args:
        input: logits, floating point [B, C].
        target: sparse targets of a batch of B.
        weight: not supported.
        size_average: not supported.
        ignore_index: not supported.
        reduce: not supported.
        reduction: "mean" over the batch, "sum" or "none".
        label_smoothing: not supported.

    Returns:
        A scalar, or [B]; float32, or float64 if the logits are.

    Raises:
        ValueError: if an argument is not supported, shapes do not match, or the targets'
            temperature is not 1.
        TypeError: if `input` is not a floating-point tensor or `target` not `SparseTargets`.
    """
    for name, value, default in (
        ("weight", weight, None),
        ("size_average", size_average, None),
        ("ignore_index", ignore_index, -100),
        ("reduce", reduce, None),
        ("label_smoothing", label_smoothing, 0.0),
    ):
        if value is not default and value != default:
            raise ValueError(
                f"cross_entropy with SparseTargets got {name}={value}, expected the default: "
                "leave it out, or pass targets.dense()"
            )
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}: pass 'mean', 'sum' or 'none'")
    if not isinstance(target, SparseTargets):
        raise TypeError(f"target is {type(target).__name__}, expected SparseTargets: swap them")
    check_inputs(input, target, 1.0)
    _say_once(_IS_CROSS_ENTROPY)
    with full_precision(input.device.type):
        fused = _fused_for(input)
        if fused is not None:
            return reduce_rows(fused(input, target, with_entropy=False), reduction)
        return reduce_rows(sparse_terms(log_softmax(input), target)[0], reduction)


@torch.compiler.assume_constant_result
def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        _logger.info(message)


_said: set[str] = set()


def _fused_for(logits: Tensor) -> Callable[..., Tensor] | None:
    """`dr_plugins.losses.fused.fused_loss` if it can compute the loss."""
    # Not for tensors without data, such as those of FakeTensorMode.
    fits = logits.device.type in _FUSED_DEVICES and type(logits) in (Tensor, nn.Parameter)
    if not fits or logits.dtype not in _FUSED_DTYPES or logits.shape[0] == 0:
        return None
    if not torch.compiler.is_compiling() and is_taken_apart():
        return None
    # Imported only with a GPU: needs Triton, and takes a second.
    from dr_plugins.losses.fused_check import kernels_work

    if not kernels_work(logits.device):
        return None
    from dr_plugins.losses.fused import fused_loss

    return fused_loss
