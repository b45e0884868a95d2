"""What all losses on a teacher's stored answers have in common."""

from __future__ import annotations

from torch import Tensor, nn

from dr_plugins.losses.checks import check_inputs
from dr_plugins.losses.plain import full_precision
from dr_plugins.targets import SparseTargets, check_temperature


class DistillationLoss(nn.Module):
    """Base of losses between a model's logits and a teacher's stored answers.

    A subclass computes the loss of each sample in `rows`, and passes `temperature` on if it has its
    own constructor. Every host can then use it, see `build_loss`, and compares its temperature with
    the shard set's.

    Args:
        temperature: T, > 0; the same as the targets', which are already softened by it.
        reduction: "batchmean" (mean over the batch; NaN for an empty batch), "sum", or "none" for
            one loss per sample, [B].

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import torch
        >>> class SquaredError(DistillationLoss):
        ...     def rows(self, logits, target):
        ...         probs = (logits / self.temperature).softmax(1)
        ...         return (probs - target.dense()).square().sum(1)
        >>> targets = SparseTargets([[2, 0]], [[0.7, 0.2]], num_classes=4)
        >>> SquaredError()(torch.zeros(1, 4), targets)
        tensor(0.2850)
    """

    def __init__(self, temperature: float = 1.0, reduction: str = "batchmean") -> None:
        super().__init__()
        check_temperature(temperature)
        if reduction not in ("batchmean", "sum", "none"):
            raise ValueError(
                f"reduction is {reduction!r}, expected 'batchmean', 'sum' or 'none': "
                "'batchmean' is the mean over samples"
            )
        self.temperature = temperature
        self.reduction = reduction

    def rows(self, logits: Tensor, target: SparseTargets | Tensor) -> Tensor:
        """Return the loss of each sample; autocast is off.

        Args:
            logits: [B, C], in the model's floating-point type.
            target: `SparseTargets`; a host may also pass probabilities [B, C] or labels [B].

        Returns:
            [B].
        """
        raise NotImplementedError

    def forward(self, logits: Tensor, target: SparseTargets | Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            logits: [B, C], floating point.
            target: See `rows`.

        Returns:
            A scalar, or [B] if `reduction` is "none".

        Raises:
            ValueError: if shapes, class counts, devices or temperatures differ, or a label (on the
                CPU) is not a class.
            TypeError: if the type or dtype of an argument is not supported.
        """
        check_inputs(logits, target, self.temperature)
        with full_precision(logits.device.type):
            return reduce_rows(self.rows(logits, target), self.reduction)

    def extra_repr(self) -> str:
        """Arguments, for `repr`."""
        return f"temperature={self.temperature}, reduction={self.reduction!r}"


def reduce_rows(rows: Tensor, reduction: str) -> Tensor:
    """Return the sum of losses [B], the losses for "none", and their mean otherwise."""
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.mean()
