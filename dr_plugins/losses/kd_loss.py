"""Knowledge distillation from stored targets: KL divergence that never builds the dense target."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from dr_plugins.targets import SparseTargets, check_temperature

__all__ = ["KDLoss", "cross_entropy"]

_logger = logging.getLogger(__name__)
# `nll_loss` skips rows with this label; any class number out of range, unlike -100, must raise.
_ROUNDING = 0.02  # of rows of half-precision probabilities
_NO_LABEL = -(2**31)
_IS_CROSS_ENTROPY = (
    "the loss is the cross-entropy to the stored answers, not the KL divergence: it is higher by "
    "their entropy, and has the same gradient"
)
_FUSED_DEVICES = ("cuda",)
_FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class KDLoss(nn.Module):
    """KL(target || softmax(logits / T)) * T^2, Hinton et al. 2015 (arXiv 1503.02531).

    The targets are used as they are; T must be the temperature that they were softened by. Equal to
    `F.kl_div(F.log_softmax(logits / T, 1), targets.dense(), reduction="batchmean") * T**2` to
    rounding. With `label_weight` w the loss is (1 - w) * KL + w * CE(logits, label), at temperature
    1; rows whose label is -1 have no cross-entropy term.

    On a GPU, two Triton kernels compute the loss of `SparseTargets` and its gradient, without any
    other tensor of the logits' size; to `torch.compile` they are operations like PyTorch's own.
    Before they are used on a device, they are compared there with PyTorch's operations. The logits
    must not be changed in place between forward and backward.

    A class without target mass contributes nothing, whatever its logit. A logit of -inf on a class
    with target mass makes the loss of its row +inf ("smooth" gives mass to every class), while the
    gradient stays finite. A row of -inf, a NaN or a logit of +inf gives NaN.

    Args:
        temperature: T, > 0; that of the targets.
        label_weight: w, in [0, 1].
        reduction: "batchmean" (sum over classes, mean over the batch; NaN for an empty one),
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
        super().__init__()
        check_temperature(temperature)
        if not 0 <= label_weight <= 1:
            raise ValueError(f"label_weight is {label_weight}, expected [0, 1]: 0 is KL only")
        if reduction not in ("batchmean", "sum", "none"):
            raise ValueError(
                f"reduction is {reduction!r}, expected 'batchmean', 'sum' or 'none': "
                "'batchmean' is the mean over samples"
            )
        self.temperature = temperature
        self.label_weight = label_weight
        self.reduction = reduction

    def forward(self, logits: Tensor, target: SparseTargets | Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            logits: [B, C], floating point. Computed in float32, or float64 if the logits are.
            target: `SparseTargets`; or probabilities, floating point [B, C]; or labels in [0, C),
                integers [B], which are one-hot targets.

        Returns:
            A scalar, or [B] if `reduction` is "none"; float32, or float64 if the logits are.

        Raises:
            ValueError: if shapes, class counts, devices or temperatures differ, a label (on the
                CPU) is not a class, or `label_weight` has no labels to use: probabilities come
                without.
            TypeError: if a dtype is neither.
        """
        _check(logits, target, self.temperature)
        with full_precision(logits.device.type):
            return _reduce(self._rows(logits, target), self.reduction)

    def _rows(self, logits: Tensor, target: SparseTargets | Tensor) -> Tensor:
        fused = _fused_for(logits) if isinstance(target, SparseTargets) else None
        rows = plain_rows if fused is None else fused
        return rows(logits, target, self.temperature, self.label_weight)

    def extra_repr(self) -> str:
        """Arguments, for `repr`."""
        return (
            f"temperature={self.temperature}, label_weight={self.label_weight}, "
            f"reduction={self.reduction!r}"
        )


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
    """Soft-target cross-entropy, what `torch.nn.functional.cross_entropy` does on `SparseTargets`.

    Args:
        input: logits, floating point [B, C].
        target: sparse targets of a batch of B.
        weight: not supported, as every argument that is not named below.
        size_average: not supported.
        ignore_index: not supported.
        reduce: not supported.
        reduction: "mean" over the batch, "sum" or "none".
        label_smoothing: not supported.

    Returns:
        A scalar, or [B]; float32, or float64 if the logits are.

    Raises:
        ValueError: if an argument is not supported, shapes do not match, or the targets have
            another temperature than 1.
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
    _check(input, target, 1.0)
    _say_once(_IS_CROSS_ENTROPY)
    with full_precision(input.device.type):
        fused = _fused_for(input)
        if fused is not None:
            return _reduce(fused(input, target, with_entropy=False), reduction)
        return _reduce(_sparse_terms(_log_softmax(input), target)[0], reduction)


@torch.compiler.assume_constant_result
def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        _logger.info(message)


_said: set[str] = set()


def _fused_for(logits: Tensor) -> Callable[..., Tensor] | None:
    """`dr_plugins.losses.fused.fused_loss` where it can take over."""
    # Not for tensors that only stand for others, as those of FakeTensorMode.
    fits = logits.device.type in _FUSED_DEVICES and type(logits) in (Tensor, nn.Parameter)
    if not fits or logits.dtype not in _FUSED_DTYPES or logits.shape[0] == 0:
        return None
    if not torch.compiler.is_compiling() and _is_taken_apart():
        return None
    # Imported where there is a GPU: they take Triton, and a second.
    from dr_plugins.losses.fused_check import kernels_work

    if not kernels_work(logits.device):
        return None
    from dr_plugins.losses.fused import fused_loss

    return fused_loss


def _is_taken_apart() -> bool:
    """Whether `torch.func` or forward-mode differentiation looks into each operation."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def plain_rows(
    logits: Tensor,
    target: SparseTargets | Tensor,
    temperature: float = 1.0,
    label_weight: float = 0.0,
) -> Tensor:
    """Loss of each row by PyTorch's operations; see `KDLoss` for the formula.

    Args:
        logits: floating point [B, C].
        target: what `KDLoss` takes.
        temperature: T, > 0.
        label_weight: w, in [0, 1].

    Returns:
        float32 [B], or float64 if the logits are.
    """
    log_probs = _log_softmax(logits, temperature)
    rows = _kl_divergence(log_probs, target) * temperature**2
    if label_weight == 0:
        return rows
    if temperature != 1:
        log_probs = _log_softmax(logits)
    return (1 - label_weight) * rows + label_weight * _label_loss(log_probs, target)


def full_precision(device_type: str) -> AbstractContextManager[object]:
    """Context without autocast."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()  # "meta", for one, has no autocast to disable


def _log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if temperature != 1:
        logits = logits.to(dtype) / temperature
    return F.log_softmax(logits, dim=1, dtype=dtype)


def _reduce(rows: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.mean()


def _kl_divergence(log_probs: Tensor, target: SparseTargets | Tensor) -> Tensor:
    if isinstance(target, SparseTargets):
        crossed, entropy = _sparse_terms(log_probs, target)
        return crossed - entropy
    if not target.is_floating_point():
        return _label_loss(log_probs, target)
    probs = target.to(log_probs.dtype)
    return (torch.xlogy(probs, probs) - _weighted(probs, log_probs)).sum(1)


def _sparse_terms(log_probs: Tensor, target: SparseTargets) -> tuple[Tensor, Tensor]:
    """Cross-entropy of `log_probs` to the targets and entropy of the targets, [B] each."""
    probs, share = target.normalized(dtype=log_probs.dtype)
    padding = target.ids < 0
    crossed = _weighted(probs, log_probs.gather(1, target.ids.clamp(min=0))).sum(1)
    entropy = torch.xlogy(probs, probs).sum(1)
    if target.densify == "smooth":
        # Sum over the classes not listed; one more column takes the padding. The sum over all
        # minus those listed would cancel: NaN where one is -inf, few digits where they dominate.
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
    """Cross-entropy to the labels, [B]; 0 where there is none."""
    if isinstance(target, SparseTargets):
        return F.nll_loss(log_probs, target.labels, ignore_index=-1, reduction="none")
    if target.is_floating_point():
        raise ValueError("label_weight needs labels, got probabilities: pass SparseTargets")
    return F.nll_loss(log_probs, target.long(), ignore_index=_NO_LABEL, reduction="none")


def _check(logits: Tensor, target: SparseTargets | Tensor, temperature: float) -> None:
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        got = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"logits are {got}, expected a floating-point tensor: pass model outputs")
    if not isinstance(target, SparseTargets | Tensor):
        raise TypeError(
            f"target is {type(target).__name__}: pass SparseTargets, probabilities or labels"
        )
    if logits.dim() != 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}, expected [B, C]: flatten them")
    if isinstance(target, Tensor) and not target.is_floating_point():
        _check_labels(logits, target)
    else:
        _check_probs(logits, target)
    if target.device != logits.device:
        raise ValueError(
            f"target is on {target.device}, logits on {logits.device}: use target.to(device)"
        )
    stored = target.temperature if isinstance(target, SparseTargets) else None
    if stored is not None and stored != temperature:
        raise ValueError(
            f"the targets have temperature {stored}, the loss {temperature}: use "
            f"KDLoss(temperature={stored}) (timm: leave out --smoothing 0, which takes "
            f"a cross-entropy without temperature)"
        )


def _check_probs(logits: Tensor, target: SparseTargets | Tensor) -> None:
    if len(target.shape) != 2 or target.shape[0] != logits.shape[0]:
        raise ValueError(
            f"target has shape {tuple(target.shape)}, expected {tuple(logits.shape)} as the "
            "logits: join samples with SparseTargets.stack"
        )
    if target.shape[1] != logits.shape[1]:
        raise ValueError(
            f"the model has {logits.shape[1]} classes, the targets {target.shape[1]}: "
            "build the model with as many classes as the targets (timm: --num-classes)"
        )
    if isinstance(target, Tensor) and _is_readable(target):
        _check_range(target)


def _check_range(probs: Tensor) -> None:
    if bool((probs < 0).any() | (probs.float().sum(1) > 1 + _ROUNDING).any()):
        raise ValueError(
            "target holds no probabilities: one is negative, or a row sums to more than 1; apply "
            "softmax to a teacher's logits"
        )


def _is_readable(target: Tensor) -> bool:
    """Whether values can be looked at; on a GPU that would wait for it."""
    is_plain = target.device.type == "cpu" and not torch.compiler.is_compiling()
    return is_plain and type(target) in (Tensor, nn.Parameter) and not _is_taken_apart()


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    if labels.dtype == torch.bool or labels.is_complex():
        raise TypeError(f"target is {labels.dtype}: pass probabilities or integer labels")
    batch, classes = logits.shape
    if labels.shape != (batch,):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, expected ({batch},): one for each sample"
        )
    # On a GPU the check would synchronise; there the kernel asserts.
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    outside = labels[(labels < 0) | (labels >= classes)]
    if outside.numel():
        raise ValueError(
            f"label {int(outside[0])} is not in [0, {classes}), the classes of the model: "
            "build it with as many classes as the dataset (timm: --num-classes)"
        )
