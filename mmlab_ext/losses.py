"""The loss for reinforced data, with the interface of OpenMMLab's losses."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.registry import MODELS

from dr_plugins import KDLoss as CoreKDLoss
from dr_plugins import SparseTargets


@MODELS.register_module()
class KDLoss(CoreKDLoss):
    """`dr_plugins.KDLoss` for configs: ``loss=dict(type="KDLoss")``.

    Also works in mmpretrain's heads, where targets are dense (``gt_score``) or labels.

    Args:
        temperature: Of the stored answers.
        label_weight: Weight of the cross-entropy to the label, within ``[0, 1]``.
        reduction: ``batchmean``, ``sum`` or ``none``.
        loss_weight: Factor of the loss.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> loss = MODELS.build(dict(type="KDLoss", loss_weight=2.0))
        >>> loss(torch.zeros(1, 4), torch.tensor([3]))
        tensor(2.7726)
    """

    def __init__(
        self,
        temperature: float = 1.0,
        label_weight: float = 0.0,
        reduction: str = "batchmean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(temperature, label_weight, reduction)
        self.loss_weight = loss_weight

    def forward(
        self,
        logits: torch.Tensor,
        target: SparseTargets | torch.Tensor,
        avg_factor: float | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Loss of a batch.

        Args:
            logits: ``[B, num_classes]``.
            target: See `dr_plugins.KDLoss`.
            avg_factor: Divide the sum by this instead of the batch size.
            **kwargs: Other arguments of heads; must be None.

        Returns:
            A scalar, or ``[B]`` with reduction ``none``.

        Raises:
            ValueError: An argument that is not supported; see also `dr_plugins.KDLoss`.
        """
        for name, value in kwargs.items():
            if value is not None:
                raise ValueError(f"KDLoss got {name}={value!r}; leave it out")
        loss = super().forward(logits, target.to(logits.device))
        if avg_factor is not None:
            if self.reduction != "batchmean":
                raise ValueError(
                    f"KDLoss with reduction={self.reduction!r} got avg_factor={avg_factor}, which "
                    f"needs an average: set model.loss.reduction='batchmean'"
                )
            loss = loss * (len(logits) / avg_factor)
        return loss * self.loss_weight
