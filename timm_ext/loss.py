"""Losses: knowledge distillation for a teacher's targets, timm's own for all others."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from timm.loss.cross_entropy import LabelSmoothingCrossEntropy
from torch import Tensor, nn

from dr_plugins import KDLoss, ReinforcedDataset, SparseTargets
from dr_plugins.training.contract import Contract, RunFacts, Setting
from timm_ext.datasets import training_dataset
from timm_ext.primary_log import log_on_primary


class ReinforcedLoss(nn.Module):
    """KL divergence to stored answers; another loss for all other targets.

    Args:
        plain: For targets that are not `SparseTargets`; cross-entropy by default.
        temperature: The teacher's, see `KDLoss`; None to use the targets'.

    Example:
        >>> import torch
        >>> ReinforcedLoss()(torch.zeros(1, 4), torch.tensor([2]))
        tensor(1.3863)
    """

    def __init__(self, plain: nn.Module | None = None, temperature: float | None = None) -> None:
        super().__init__()
        self.plain = nn.CrossEntropyLoss() if plain is None else plain
        self.temperature = temperature

    def forward(self, logits: Tensor, target: SparseTargets | Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            logits: ``[B, C]``, floating point.
            target: `SparseTargets`, or what `plain` takes.

        Returns:
            A scalar.

        Raises:
            DatasetMismatchError: Model and targets have different numbers of classes.
            ValueError: The targets have another temperature.
        """
        if isinstance(target, SparseTargets):
            return _divergence(logits, target, self.temperature)
        loss: Tensor = self.plain(logits, target)
        return loss


def create_loss(
    dataset: ReinforcedDataset | None = None, plain: nn.Module | None = None
) -> ReinforcedLoss:
    """Create the loss for a reinforced dataset.

    Args:
        dataset: Sets the temperature; if None, the targets set it.
        plain: For targets that are not `SparseTargets`, such as those of the validation split;
            cross-entropy by default.

    Example:
        >>> import torch
        >>> targets = SparseTargets([[2, 0]], [[0.7, 0.2]], num_classes=4)
        >>> create_loss()(torch.zeros(1, 4), targets)
        tensor(0.5152)
    """
    return ReinforcedLoss(plain, None if dataset is None else dataset.temperature)


@functools.cache
def change_classes() -> None:
    """Make timm's `LabelSmoothingCrossEntropy` compute the KL divergence to `SparseTargets`.

    The class is changed in place, for the reason given in `refusals.change_classes`.
    """
    kind: Any = LabelSmoothingCrossEntropy
    init: Callable[..., None] = kind.__init__
    smoothed: Callable[..., Tensor] = kind.forward

    @functools.wraps(init)
    def logged(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if (dataset := training_dataset()) is not None:
            log_on_primary(
                f"--smoothing {self.smoothing} is not used: the loss is the KL divergence to the "
                f"stored answers (temperature {dataset.temperature})"
            )

    @functools.wraps(smoothed)
    def forward(self: Any, x: Tensor, target: SparseTargets | Tensor) -> Tensor:
        if isinstance(target, SparseTargets):
            return _divergence(x, target, None)
        return smoothed(self, x, target)

    kind.__init__, kind.forward = logged, forward


def _divergence(logits: Tensor, target: SparseTargets, temperature: float | None) -> Tensor:
    classes = Setting("the model", logits.shape[-1])
    Contract.of_targets(target).check_run(RunFacts(num_classes=[classes]))
    loss: Tensor = KDLoss(temperature or target.temperature or 1.0)(logits, target)
    return loss
