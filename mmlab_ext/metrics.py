"""Metrics for classifiers, which MMEngine does not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from dr_plugins.metrics import ImageScores
from dr_plugins.metrics.image_scores import METRICS as METRICS_OF_IMAGES
from dr_plugins.metrics.image_scores import top_k_share
from mmlab_ext.errors import ConfigError
from mmlab_ext.samples import one_class

_TOP_K = ("top1", "top5")  # which `TopKAccuracy` reports


def _scores(sample: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities ``[1, C]`` and the label ``[1]`` of one sample."""
    if "pred_score" not in sample or "gt_label" not in sample:
        raise ConfigError(
            f"val_evaluator: the samples hold {sorted(sample)}; expected pred_score and gt_label. "
            f"This metric is for classifiers, such as TimmClassifier"
        )
    label = one_class(sample["gt_label"], "val_dataloader.dataset")
    probs = torch.as_tensor(sample["pred_score"]).double().cpu()
    if not 0 <= label < len(probs):
        raise ConfigError(
            f"val_dataloader.dataset has label {label}, but the model has {len(probs)} classes; "
            f"validate on labelled images of the model's classes"
        )
    return probs[None], torch.tensor([label])


@METRICS.register_module()
class TopKAccuracy(BaseMetric):
    """How often the label is among the k most probable classes, in percent.

    Equal probabilities count as in `dr_plugins.metrics.ImageScores`.

    Args:
        topk: Each k, at least 1; capped at the number of classes.
        collect_device: See `BaseMetric`.
        prefix: See `BaseMetric`.

    Raises:
        ConfigError: A k below 1, or samples without scores.

    Example:
        >>> metric = METRICS.build(dict(type="TopKAccuracy", topk=(1, 2)))
        >>> sample = dict(gt_label=torch.tensor([1]), pred_score=torch.tensor([0.5, 0.3, 0.2]))
        >>> metric.process(None, [sample])
        >>> metric.compute_metrics(metric.results)
        {'top1': 0.0, 'top2': 100.0}
    """

    default_prefix = "accuracy"

    def __init__(
        self,
        topk: int | Sequence[int] = (1, 5),
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        if not self.topk or min(self.topk) < 1:
            raise ConfigError(
                f"val_evaluator: TopKAccuracy.topk is {topk}; expected numbers of at least 1"
            )

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Record whether each sample's label is among the top k, for each k."""
        for sample in data_samples:
            probs, label = _scores(sample)
            self.results.append([top_k_share(probs, label, k).item() for k in self.topk])

    def compute_metrics(self, results: list[list[float]]) -> dict[str, float]:
        """Return ``top1`` etc., in percent."""
        means = torch.tensor(results, dtype=torch.double).mean(dim=0)
        return {f"top{k}": 100 * mean.item() for k, mean in zip(self.topk, means, strict=True)}


@METRICS.register_module()
class CalibrationMetrics(BaseMetric):
    """How far a classifier's probabilities are from the truth, in one pass.

    ``ece`` and ``adaptive_ece`` (bins of equally many images) are in percent, like `TopKAccuracy`;
    ``nll`` is in nats, ``brier`` within [0, 2]; see `dr_plugins.metrics.ImageScores`.

    Args:
        bins: Of the calibration errors.
        collect_device: See `BaseMetric`.
        prefix: See `BaseMetric`.

    Raises:
        ConfigError: `bins` is below 1, samples have no scores, or a label is no class.

    Example:
        >>> metric = METRICS.build(dict(type="CalibrationMetrics"))
        >>> sample = dict(gt_label=torch.tensor([0]), pred_score=torch.tensor([0.75, 0.25]))
        >>> metric.process(None, [sample])
        >>> round(metric.compute_metrics(metric.results)["brier"], 6)
        0.125
    """

    default_prefix = "calibration"

    def __init__(
        self, bins: int = 15, collect_device: str = "cpu", prefix: str | None = None
    ) -> None:
        super().__init__(collect_device, prefix)
        if bins < 1:
            raise ConfigError(
                f"val_evaluator: {type(self).__name__}.bins is {bins}; expected at least 1"
            )
        self.bins = bins

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Record each sample's scores."""
        for sample in data_samples:
            probs, label = _scores(sample)
            self.results.append(ImageScores.of(probs.log(), label))

    def compute_metrics(self, results: list[ImageScores]) -> dict[str, float]:
        """Return all metrics of `ImageScores` but those of `TopKAccuracy`."""
        found = ImageScores.concatenated(results).metrics(self.bins)
        return {
            name: METRICS_OF_IMAGES[name].factor * value
            for name, value in found.items()
            if name not in _TOP_K
        }


@METRICS.register_module()
class ExpectedCalibrationError(CalibrationMetrics):
    """Expected calibration error (Guo et al., 2017, equation 3), in percent.

    See `dr_plugins.metrics.expected_calibration_error`, which is within ``[0, 1]``.

    Args:
        bins: Number of bins of equal width.
        collect_device: See `BaseMetric`.
        prefix: See `BaseMetric`.

    Raises:
        ConfigError: `bins` is below 1, or samples have no scores.

    Example:
        >>> metric = METRICS.build(dict(type="ExpectedCalibrationError"))
        >>> sample = dict(gt_label=torch.tensor([0]), pred_score=torch.tensor([0.75, 0.25]))
        >>> metric.process(None, [sample])
        >>> round(metric.compute_metrics(metric.results)["ece"], 6)
        25.0
    """

    def compute_metrics(self, results: list[ImageScores]) -> dict[str, float]:
        """Return ``ece``, in percent."""
        return {"ece": super().compute_metrics(results)["ece"]}
