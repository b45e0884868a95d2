"""The losses of `dr_plugins`, with the interface of OpenMMLab's losses."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.registry import MODELS
from torch import nn

from dr_plugins import SparseTargets
from dr_plugins.losses import build_loss, loss_names


@MODELS.register_module()
class DistillationLoss(nn.Module):
    """Any loss of `dr_plugins` for configs: ``dict(type="DistillationLoss", loss="MODULE:CLASS")``.

    Those of `dr_plugins.losses.loss_names` have their own types: ``loss=dict(type="KDLoss")``. Also
    works in mmpretrain's heads, where targets are dense (``gt_score``) or labels, if the loss takes
    these.

    Args:
        loss: See `dr_plugins.losses.build_loss`.
        loss_weight: Factor of the loss.
        **options: Of the loss, such as ``temperature``.

    Raises:
        LossError: There is no such loss.
        ValueError: An argument is out of its range.

    Example:
        >>> loss = MODELS.build(dict(type="DistillationLoss", loss="KDLoss", loss_weight=2.0))
        >>> loss(torch.zeros(1, 4), torch.tensor([3]))
        tensor(2.7726)
    """

    def __init__(self, loss: str, loss_weight: float = 1.0, **options: Any) -> None:
        super().__init__()
        self.loss = build_loss(loss, **options)
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
            target: What the loss takes.
            avg_factor: Divide the sum by this instead of the batch size.
            **kwargs: Other arguments of heads; must be None.

        Returns:
            A scalar, or ``[B]`` with reduction ``none``.

        Raises:
            ValueError: An argument that is not supported; see also `dr_plugins.KDLoss`.
        """
        name = type(self.loss).__name__
        for key, value in kwargs.items():
            if value is not None:
                raise ValueError(f"{name} got {key}={value!r}; leave it out")
        loss: torch.Tensor = self.loss(logits, target.to(logits.device))
        if avg_factor is not None:
            if self.loss.reduction != "batchmean":
                raise ValueError(
                    f"{name} with reduction={self.loss.reduction!r} got avg_factor={avg_factor}, "
                    f"which needs an average: set model.loss.reduction='batchmean'"
                )
            loss = loss * (len(logits) / avg_factor)
        return loss * self.loss_weight


@MODELS.register_module()
class KDLoss(DistillationLoss):
    """`dr_plugins.KDLoss` for configs: ``loss=dict(type="KDLoss")``.

    Args:
        temperature: Of the stored answers.
        label_weight: Weight of the cross-entropy to the label, within ``[0, 1]``.
        reduction: ``batchmean``, ``sum`` or ``none``.
        loss_weight: Factor of the loss.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> MODELS.build(dict(type="KDLoss"))(torch.zeros(1, 4), torch.tensor([3]))
        tensor(1.3863)
    """

    def __init__(
        self,
        temperature: float = 1.0,
        label_weight: float = 0.0,
        reduction: str = "batchmean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(
            "KDLoss",
            loss_weight,
            temperature=temperature,
            label_weight=label_weight,
            reduction=reduction,
        )


def _register(name: str) -> None:
    def build(**options: Any) -> DistillationLoss:
        return DistillationLoss(name, **options)

    MODELS.register_module(name=name, module=build)


for _name in set(loss_names()) - {"KDLoss"}:
    _register(_name)
