"""Losses: knowledge distillation where targets are a teacher's, timm's own everywhere else."""

from __future__ import annotations

from typing import Any

import timm.loss.cross_entropy
from torch import Tensor, nn

from dr_plugins import KDLoss, ReinforcedDataset, SparseTargets
from dr_plugins.errors import DatasetMismatchError
from timm_ext.datasets import training_dataset
from timm_ext.messages import log_on_primary

__all__ = ["LabelSmoothingCrossEntropy", "ReinforcedLoss", "create_loss"]


class ReinforcedLoss(nn.Module):
    """KL divergence to stored answers, and another loss for every other kind of target.

    Args:
        plain: For targets that are not `SparseTargets`; cross-entropy by default.
        temperature: The teacher's, see `KDLoss`.

    Example:
        >>> import torch
        >>> ReinforcedLoss()(torch.zeros(1, 4), torch.tensor([2]))
        tensor(1.3863)
    """

    def __init__(self, plain: nn.Module | None = None, temperature: float = 1.0) -> None:
        super().__init__()
        self.plain = nn.CrossEntropyLoss() if plain is None else plain
        self.distillation = KDLoss(temperature)

    def forward(self, logits: Tensor, target: SparseTargets | Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            logits: ``[B, C]``, floating point.
            target: `SparseTargets`, or what `plain` takes.

        Returns:
            A scalar.

        Raises:
            DatasetMismatchError: The model has other classes than the targets.
        """
        if not isinstance(target, SparseTargets):
            loss: Tensor = self.plain(logits, target)
            return loss
        if logits.shape[-1] != target.num_classes:
            raise DatasetMismatchError(
                f"the model has {logits.shape[-1]} classes, the reinforced dataset "
                f"{target.num_classes}; write --num-classes {target.num_classes}"
            )
        divergence: Tensor = self.distillation(logits, target)
        return divergence


class LabelSmoothingCrossEntropy(timm.loss.cross_entropy.LabelSmoothingCrossEntropy):
    """`timm.loss.LabelSmoothingCrossEntropy`; on `SparseTargets` it is `ReinforcedLoss`.

    Args:
        *args: As timm's class takes them. They have no effect on `SparseTargets`.
        **kwargs: As timm's class takes them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        dataset = training_dataset()
        self.reinforced = create_loss(dataset)
        if dataset is not None:
            log_on_primary(
                f"--smoothing {self.smoothing} is not used: the loss is the KL divergence to the "
                f"stored answers (temperature {self.reinforced.distillation.temperature})"
            )

    def forward(self, x: Tensor, target: SparseTargets | Tensor) -> Tensor:
        """Loss of a batch; see `ReinforcedLoss`."""
        loss: Tensor
        if isinstance(target, SparseTargets):
            loss = self.reinforced(x, target)
        else:
            loss = super().forward(x, target)
        return loss


def create_loss(
    dataset: ReinforcedDataset | None = None, plain: nn.Module | None = None
) -> ReinforcedLoss:
    """Create the loss for a reinforced dataset.

    Args:
        dataset: Gives the temperature of its teacher; 1 if None.
        plain: For targets that are not `SparseTargets`, such as those of the validation split;
            cross-entropy by default.

    Example:
        >>> create_loss().distillation.temperature
        1.0
    """
    settings = {} if dataset is None else dataset.shards.manifest.settings
    return ReinforcedLoss(plain, float(settings.get("temperature", 1.0)))
