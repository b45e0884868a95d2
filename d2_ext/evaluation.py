"""Detectron2 evaluator of a classifier's accuracy and calibration."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.metrics import expected_calibration_error

_TOP = 5


class ClassificationEvaluator(DatasetEvaluator):
    """Top-1 and top-5 accuracy and the expected calibration error, in percent.

    Args:
        bins: Of the calibration error, see `expected_calibration_error`.

    Example:
        >>> evaluator = ClassificationEvaluator()
        >>> evaluator.reset()
        >>> evaluator.process(
        ...     {"labels": torch.tensor([0, 1])}, {"logits": torch.tensor([[9.0, 0], [9, 0]])})
        >>> evaluator.evaluate()["classification"]["top1"]
        50.0
    """

    def __init__(self, bins: int = 15) -> None:
        self.bins = bins
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._confidences: list[torch.Tensor] = []
        self._ranks: list[torch.Tensor] = []

    def process(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Add a batch of `build_classification_test_loader` and the classifier's outputs.

        Raises:
            DatasetMismatchError: A label is out of range.
        """
        logits = outputs["logits"].detach().float()
        labels = inputs["labels"].to(logits.device)
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
            raise DatasetMismatchError(
                f"labels from {int(labels.min())} to {int(labels.max())} for a classifier with "
                f"{logits.shape[1]} classes; evaluate on images of the training classes"
            )
        # Rows with NaN are never right.
        logits = logits.masked_fill(logits.isnan().any(dim=1, keepdim=True), float("nan"))
        own = logits.gather(1, labels[:, None])
        # How many classes rank before the right one; half of the equal ones do, so a constant
        # output is not right.
        ahead = (logits > own).sum(dim=1) + ((logits == own).sum(dim=1) - 1).div(2).ceil()
        broken = own[:, 0].isnan()
        self._ranks.append(ahead.masked_fill(broken, logits.shape[1] + _TOP).cpu())
        confidence = logits.softmax(dim=1).amax(dim=1).masked_fill(broken, 1.0)
        self._confidences.append(confidence.cpu())

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Return the metrics under ``classification``; empty except in the main process.

        Raises:
            DatasetMismatchError: There were no images.
        """
        parts = comm.gather((self._ranks, self._confidences), dst=0)
        if not comm.is_main_process():
            return OrderedDict()
        ranks = list(itertools.chain.from_iterable(part[0] for part in parts))
        confidences = list(itertools.chain.from_iterable(part[1] for part in parts))
        if not ranks:
            raise DatasetMismatchError("there were no images to evaluate; see DATASETS.TEST")
        rank, confidence = torch.cat(ranks), torch.cat(confidences)
        # One column holds each image's top class, with label 0 if that is right.
        error = expected_calibration_error(confidence[:, None], (rank > 0).long(), self.bins)
        metrics = {
            "top1": 100 * (rank < 1).double().mean().item(),
            "top5": 100 * (rank < _TOP).double().mean().item(),
            "ECE": 100 * error,
        }
        return OrderedDict(classification=metrics)
