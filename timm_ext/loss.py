"""Losses: that of the stored answers for a teacher's targets, timm's own for all others."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.loss.cross_entropy import LabelSmoothingCrossEntropy
from torch import Tensor, nn

from dr_plugins import KDLoss, ReinforcedDataset, SparseTargets
from dr_plugins.losses import DistillationLoss
from dr_plugins.losses.kd_loss import cross_entropy
from dr_plugins.targets import implements
from dr_plugins.training.contract import Contract, RunFacts, Setting
from timm_ext.datasets import chosen_loss, is_loss_chosen, training_dataset
from timm_ext.errors import UnsupportedOptionError
from timm_ext.primary_log import log_on_primary


class ReinforcedLoss(nn.Module):
    """A loss for stored answers; another one for all other targets.

    Args:
        plain: For targets that are not `SparseTargets`; cross-entropy by default.
        answers: For `SparseTargets`; by default the loss that the dataset's name chooses, or
            `KDLoss` with the targets' temperature.
        contract: What the shard set demands; by default what the targets show of it.

    Example:
        >>> import torch
        >>> ReinforcedLoss()(torch.zeros(1, 4), torch.tensor([2]))
        tensor(1.3863)
    """

    def __init__(
        self,
        plain: nn.Module | None = None,
        answers: DistillationLoss | None = None,
        contract: Contract | None = None,
    ) -> None:
        super().__init__()
        self.plain = nn.CrossEntropyLoss() if plain is None else plain
        self.answers, self.contract = answers, contract

    def forward(self, logits: Tensor, target: SparseTargets | Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            logits: ``[B, C]``, floating point.
            target: `SparseTargets`, or what `plain` takes.

        Returns:
            A scalar.

        Raises:
            UnsupportedOptionError: A dataset's name chooses a loss, but it is not the training
                dataset that was created last.
            DatasetMismatchError: The model is not what the shard set demands, such as one with
                another number of classes.
            ValueError: The targets have another temperature.
        """
        if isinstance(target, SparseTargets):
            return _loss_of_answers(logits, target, self.answers, self.contract)
        loss: Tensor = self.plain(logits, target)
        return loss


def create_loss(
    dataset: ReinforcedDataset | None = None, plain: nn.Module | None = None
) -> ReinforcedLoss:
    """Create the loss for a reinforced dataset.

    Args:
        dataset: Its name may choose the loss, and it sets the temperature; if None, the dataset
            created last and the targets do.
        plain: For targets that are not `SparseTargets`, such as those of the validation split;
            cross-entropy by default.

    Example:
        >>> import torch
        >>> targets = SparseTargets([[2, 0]], [[0.7, 0.2]], num_classes=4)
        >>> create_loss()(torch.zeros(1, 4), targets)
        tensor(0.5152)
    """
    if dataset is None:
        return ReinforcedLoss(plain)
    answers = chosen_loss(dataset) or KDLoss(dataset.temperature)
    return ReinforcedLoss(plain, answers, dataset.contract())


@functools.cache
def change_classes() -> None:
    """Make timm's `LabelSmoothingCrossEntropy` compute the loss of `SparseTargets`.

    The class is changed in place, for the reason given in `refusals.change_classes`. PyTorch's
    cross-entropy, which timm uses with ``--smoothing 0``, refuses to replace a chosen loss.
    """
    kind: Any = LabelSmoothingCrossEntropy
    init: Callable[..., None] = kind.__init__
    smoothed: Callable[..., Tensor] = kind.forward

    @functools.wraps(init)
    def logged(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self.answers = chosen_loss()  # a submodule, which moves to the device
        if (dataset := training_dataset()) is not None:
            self.contract = dataset.contract()
            name = "KL divergence" if self.answers is None else type(self.answers).__name__
            log_on_primary(
                f"--smoothing {self.smoothing} is not used: the loss is the {name} to the "
                f"stored answers (temperature {dataset.temperature})"
            )

    @functools.wraps(smoothed)
    def forward(self: Any, x: Tensor, target: SparseTargets | Tensor) -> Tensor:
        if isinstance(target, SparseTargets):
            answers, contract = getattr(self, "answers", None), getattr(self, "contract", None)
            return _loss_of_answers(x, target, answers, contract)
        return smoothed(self, x, target)

    kind.__init__, kind.forward = logged, forward
    implements(F.cross_entropy)(_cross_entropy)


def _loss_of_answers(
    logits: Tensor,
    target: SparseTargets,
    loss: DistillationLoss | None,
    contract: Contract | None,
) -> Tensor:
    _check_model(logits, target, contract)
    value: Tensor = (loss or chosen_loss() or _default_loss(target))(logits, target)
    return value


def _default_loss(target: SparseTargets) -> KDLoss:
    if _is_loss_chosen():
        raise UnsupportedOptionError(
            "a dataset's name chooses a loss, but another training dataset was created after it. "
            "Use timm_ext.create_loss(DATASET)"
        )
    return KDLoss(target.temperature or 1.0)


def _cross_entropy(input: Tensor, target: SparseTargets, *args: Any, **kwargs: Any) -> Tensor:
    if (name := _name_of_chosen_loss()) is not None:
        raise UnsupportedOptionError(
            f"the dataset's name chooses the loss {name}, but --smoothing 0 (or the "
            f"script) computes a cross-entropy. Leave out --smoothing 0, or the option 'loss'"
        )
    # Other types are for the function itself to refuse.
    is_checked = isinstance(input, Tensor) and isinstance(target, SparseTargets)
    if is_checked and not torch.compiler.is_compiling():
        _check_model(input, target, _contract_of(target))
    return cross_entropy(input, target, *args, **kwargs)


def _contract_of(target: SparseTargets) -> Contract | None:
    """What the training set demands, if the targets can be of it: a script may have two sets."""
    dataset = training_dataset()
    if dataset is None or dataset.num_classes != target.num_classes:
        return None
    return dataset.contract()


def _check_model(logits: Tensor, target: SparseTargets, contract: Contract | None) -> None:
    contract = contract or Contract.of_targets(target)
    contract.check_run(RunFacts(num_classes=[Setting("the model", logits.shape[-1])]))


@torch.compiler.assume_constant_result
def _is_loss_chosen() -> bool:
    return is_loss_chosen()


@torch.compiler.assume_constant_result
def _name_of_chosen_loss() -> str | None:
    loss = chosen_loss()
    return None if loss is None else type(loss).__name__
