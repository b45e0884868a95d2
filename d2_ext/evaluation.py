"""Detectron2 evaluator of a classifier's accuracy and calibration."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.metrics import ImageScores
from dr_plugins.metrics.image_scores import METRICS

_NAMES = {"ece": "ECE", "adaptive_ece": "aECE", "nll": "NLL", "brier": "Brier"}


class ClassificationEvaluator(DatasetEvaluator):
    """Top-1 and top-5 accuracy, and how far the confidence is from the accuracy.

    ``top1``, ``top5``, ``ECE`` and ``aECE`` (bins of equally many images) are in percent, ``NLL``
    is in nats, ``Brier`` within [0, 2]; see `dr_plugins.metrics.ImageScores`.

    Args:
        bins: Of the calibration errors.

    Example:
        >>> import torch
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
        self._scores: list[ImageScores] = []

    def process(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Add a batch of `build_classification_test_loader` and the classifier's outputs.

        Raises:
            DatasetMismatchError: A label is out of range.
        """
        logits = outputs["logits"].detach().cpu()
        labels = inputs["labels"].cpu()
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
            raise DatasetMismatchError(
                f"labels from {int(labels.min())} to {int(labels.max())} for a classifier with "
                f"{logits.shape[1]} classes; evaluate on images of the training classes"
            )
        self._scores.append(ImageScores.of(logits, labels))

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Return the metrics under ``classification``; empty except in the main process.

        Raises:
            DatasetMismatchError: There were no images.
        """
        parts = comm.gather(self._scores, dst=0)
        if not comm.is_main_process():
            return OrderedDict()
        scores = list(itertools.chain.from_iterable(parts))
        if not scores:
            raise DatasetMismatchError("there were no images to evaluate; see DATASETS.TEST")
        found = ImageScores.concatenated(scores).metrics(self.bins)
        metrics = {
            _NAMES.get(name, name): METRICS[name].factor * value for name, value in found.items()
        }
        return OrderedDict(classification=metrics)
