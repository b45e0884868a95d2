"""The hooks' check that images are not normalised twice."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper

from mmlab_ext.pipelines import refuse_normalised, refuse_normalising

_BATCHES = 50  # checked in each loop, since transforms may be random


class InputsHook(Hook):
    """Refuses pipelines that normalise, if ``model.data_preprocessor`` normalises too.

    Transforms called ``Normalize`` are found before the first step; other normalisation or scaling
    shows in the values of the first batches.

    Attributes:
        check_inputs: Whether to check.
    """

    check_inputs = True

    def before_train(self, runner: Any) -> None:
        """Check the pipelines of training and validation."""
        self._check_dataset(runner, runner.train_dataloader, "train")
        if runner.val_loop is not None:
            self._check_dataset(runner, runner.val_loop.dataloader, "val")

    def before_val(self, runner: Any) -> None:
        """Check the pipeline."""
        self._check_dataset(runner, runner.val_loop.dataloader, "val")

    def before_test(self, runner: Any) -> None:
        """Check the pipeline."""
        self._check_dataset(runner, runner.test_loop.dataloader, "test")

    def _before_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, mode: str = "train"
    ) -> None:
        if batch_idx < _BATCHES and data_batch is not None and self._normalises(runner):
            refuse_normalised(data_batch["inputs"], f"{mode}_dataloader.dataset")

    def _check_dataset(self, runner: Any, dataloader: Any, mode: str) -> None:
        if self._normalises(runner):
            refuse_normalising(dataloader.dataset, f"{mode}_dataloader.dataset")

    def _normalises(self, runner: Any) -> bool:
        preprocessor = bare_preprocessor(bare_model(runner))
        mean, std = (getattr(preprocessor, name, None) for name in ("mean", "std"))
        if not self.check_inputs or mean is None or std is None:
            return False
        return bool(torch.any(mean != 0) or torch.any(std != 1))


def bare_model(runner: Any) -> Any:
    """The model without wrappers for distributed training and test-time augmentation."""
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def bare_preprocessor(model: Any) -> Any:
    """The preprocessor that normalises, unwrapped from that of semi-supervised models."""
    preprocessor = model.data_preprocessor
    return getattr(preprocessor, "data_preprocessor", preprocessor)
