"""What each image contributes to a classifier's metrics."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch

from dr_plugins.metrics.calibration import adaptive_bins, equal_width_bins, gap, shared

_ROWS = 4096  # of 1,000 classes in double precision: 33 MB


class Metric(NamedTuple):
    """How a metric is reported.

    Attributes:
        title: Its name in a table, with its unit.
        factor: What its value is multiplied by there: 100 for percent.
        digits: After the point.
        is_calibration: Whether it measures probabilities, so that temperature scaling changes it.
    """

    title: str
    factor: float
    digits: int
    is_calibration: bool = True


METRICS = {
    "top1": Metric("top-1, %", 100, 2, is_calibration=False),
    "top5": Metric("top-5, %", 100, 2, is_calibration=False),
    "ece": Metric("ECE, %", 100, 2),
    "adaptive_ece": Metric("adaptive ECE, %", 100, 2),
    "nll": Metric("NLL", 1, 4),
    "brier": Metric("Brier score", 1, 4),
}
"""What `ImageScores.metrics` returns.

All commands, `mmlab_ext` and `d2_ext` report all of them; timm's ``train.py`` and ``validate.py``
report other metrics.
"""


@dataclass(frozen=True)
class ImageScores:
    """The scores of N images, from which all metrics follow. Every tensor is float64 ``[N]``.

    All but `confidence` are metrics by their mean.

    Attributes:
        top1: 1 if the top class is right, else 0. Of m equal top classes each counts 1/m, so a
            constant answer is as good as chance, and bfloat16 logits, which are often equal, do
            not depend on the order of the classes.
        top5: The same for the five top classes.
        confidence: Probability of the top class.
        nll: Negative log-likelihood of the label in nats; NaN if several labels are right.
        brier: Squared distance of the probabilities from the label's, within [0, 2] (Brier, 1950,
            summed over classes); NaN if several labels are right.

    Example:
        >>> scores = ImageScores.of(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        >>> scores.top1.item(), scores.brier.item()
        (0.5, 0.5)
    """

    top1: torch.Tensor
    top5: torch.Tensor
    confidence: torch.Tensor
    nll: torch.Tensor
    brier: torch.Tensor

    def __len__(self) -> int:
        return len(self.top1)

    @classmethod
    def of(cls, logits: torch.Tensor, labels: torch.Tensor) -> ImageScores:
        """Score a classifier's answers.

        Args:
            logits: ``[N, C]``. With a NaN in it, an image is wrong with confidence 1.
            labels: Class ids ``[N]``, or bool ``[N, C]`` with every right label.

        Raises:
            ValueError: The shapes do not fit, or a label is out of range.
        """
        _check(logits, labels)
        parts = [_scores(*chunk) for chunk in row_chunks(logits, labels)]
        return cls(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    @classmethod
    def concatenated(cls, parts: Iterable[ImageScores]) -> ImageScores:
        """The scores of several batches of images.

        Raises:
            ValueError: There are no parts.
        """
        rows = [part.columns().values() for part in parts]
        if not rows:
            raise ValueError("there are no scores; expected those of at least one batch")
        return cls(*(torch.cat(columns) for columns in zip(*rows, strict=True)))

    def columns(self) -> dict[str, torch.Tensor]:
        """The tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def metrics(self, bins: int = 15) -> dict[str, float]:
        """Return the metrics of all images.

        Args:
            bins: Of the calibration errors.

        Returns:
            ``top1`` and ``top5`` accuracy within [0, 1], ``ece`` and ``adaptive_ece`` (see
            `expected_calibration_error`, `adaptive_calibration_error`), ``nll`` and ``brier``.

        Raises:
            ValueError: There are no images.
        """
        if not len(self):
            raise ValueError("there are no images; expected at least one")
        ece = gap(self.confidence, self.top1, equal_width_bins(self.confidence, bins))
        accuracy = shared(self.confidence, self.top1)
        adaptive = gap(self.confidence, accuracy, adaptive_bins(self.confidence, bins))
        means = {name: values.mean().item() for name, values in self.columns().items()}
        found = {**means, "ece": ece, "adaptive_ece": adaptive}
        return {name: found[name] for name in METRICS}


def row_chunks(
    logits: torch.Tensor, labels: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Some rows at a time, logits in double precision."""
    for start in itertools.count(0, _ROWS):
        yield logits[start : start + _ROWS].double(), labels[start : start + _ROWS]
        if start + _ROWS >= len(logits):
            return


def _check(logits: torch.Tensor, labels: torch.Tensor) -> None:
    shapes = (logits.shape[:1], logits.shape)
    expected = shapes[1] if labels.dtype == torch.bool else shapes[0]
    if logits.ndim != 2 or labels.shape != expected or not logits.shape[1]:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} and {labels.dtype} labels of shape "
            f"{tuple(labels.shape)}; expected [N, C] and ids [N] or bool [N, C]"
        )
    if labels.dtype != torch.bool and len(labels):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= logits.shape[1]:
            raise ValueError(
                f"labels from {low} to {high} for logits of {logits.shape[1]} classes; expected "
                f"ids from 0 to {logits.shape[1] - 1}"
            )


def top_k_share(logits: torch.Tensor, labels: torch.Tensor, k: int) -> torch.Tensor:
    """Probability that a label is among the top k if equal classes are ordered at random.

    Args:
        logits: ``[N, C]``, or probabilities, which have the same order. With a NaN in it, an image
            is wrong.
        labels: Class ids ``[N]``.
        k: At least 1.

    Returns:
        float64 ``[N]``.

    Example:
        >>> top_k_share(torch.tensor([[0.4, 0.4, 0.2]]), torch.tensor([1]), 1)
        tensor([0.5000], dtype=torch.float64)
    """
    own = logits.gather(1, labels[:, None])
    places = k - (logits > own).sum(dim=1).double()
    share = (places / (logits == own).sum(dim=1)).clamp(0, 1)
    return share.masked_fill(logits.isnan().any(dim=1), 0.0)


def _scores(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    log_probs = logits.log_softmax(dim=1)
    probs = log_probs.exp()
    confidence = probs.amax(dim=1).masked_fill(logits.isnan().any(dim=1), 1.0)
    if labels.dtype == torch.bool:
        top1, top5 = (_share_of_any(logits, labels, k) for k in (1, 5))
        nll = brier = torch.full_like(confidence, float("nan"))
    else:
        top1, top5 = (top_k_share(logits, labels, k) for k in (1, 5))
        nll = -log_probs.gather(1, labels[:, None])[:, 0]
        own = probs.gather(1, labels[:, None])[:, 0]
        brier = probs.square().sum(dim=1) - 2 * own + 1
    return top1, top5, confidence, nll, brier


def _share_of_any(logits: torch.Tensor, right: torch.Tensor, k: int) -> torch.Tensor:
    """Probability that one of several labels is among the top k, by its best one."""
    k = min(k, logits.shape[1])
    best = logits.masked_fill(~right, float("-inf")).amax(dim=1, keepdim=True)
    ahead = (logits > best).sum(dim=1)
    places = (k - ahead).clamp(min=0)
    equal = (logits == best).sum(dim=1)
    wrong = ((logits == best) & ~right).sum(dim=1)
    # All places among the equal ones go to wrong classes: choose(wrong, p) / choose(equal, p).
    missed = torch.ones_like(best[:, 0])
    for taken in range(k):
        factor = (wrong - taken).clamp(min=0) / (equal - taken).clamp(min=1)
        missed = torch.where(taken < places, missed * factor, missed)
    return (1 - missed).masked_fill(logits.isnan().any(dim=1), 0.0)
