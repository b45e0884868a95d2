"""How often teacher and labels agree, to detect classes that are numbered differently."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import NamedTuple

import numpy as np
import torch

from dr_plugins import randomness
from dr_plugins.errors import DatasetMismatchError
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import Policy

_SAMPLE, _ENOUGH, _BATCH = 256, 20, 64  # images
_FEW_CLASSES = 10  # with fewer, chance alone can exceed any fixed share
_DEVIATIONS = 2  # above chance
_LARGEST_CHANCE = 0.9  # if nearly all images have one class, agreement means nothing
_logger = logging.getLogger(__name__)


class Agreement(NamedTuple):
    """How often the teacher's top class is the label, over a sample of views.

    Attributes:
        share: Within ``[0, 1]``.
        chance: Expected share if answers and labels were independent.
        views: Size of the sample.
    """

    share: float
    chance: float
    views: int


def label_agreement(policy: Policy, records: np.ndarray, labels: np.ndarray) -> float | None:
    """Return how often the teacher's top class is the image's label.

    Args:
        policy: The records' policy.
        records: Structured array ``[images, S]``.
        labels: Integers ``[images]``, -1 if unknown.

    Returns:
        Share within ``[0, 1]`` over the views that are not mixed; None if no label is known.
    """
    usable = ~policy.is_mixed(records) & (labels >= 0)[:, None]
    hits = records["ids"][..., 0] == labels[:, None]
    return float(hits[usable].mean()) if usable.any() else None


def measure_agreement(
    source: ImageSource, teacher: Ensemble, policy: Policy, device: str | torch.device
) -> Agreement | None:
    """Run the teacher on one view each of a sample of images from the whole dataset.

    Args:
        source: The images; up to 256 of them are read.
        teacher: On `device`.
        policy: Makes the views, without mixing.
        device: Where the teacher runs.

    Returns:
        The agreement; None with fewer than 20 labels.

    Raises:
        ImageReadError: An image cannot be read.
    """
    policy = dataclasses.replace(policy, mixings=())
    views, labels = [], []
    for index in np.unique(np.linspace(0, len(source) - 1, _SAMPLE).astype(int)).tolist():
        image, label = source.load(index)
        if label >= 0:
            rng = randomness.image_generator(0, randomness.hash_key(source.keys[index]), 0)
            views.append(policy.apply(image, policy.sample(rng, (image.height, image.width))))
            labels.append(label)
    if len(labels) < _ENOUGH:
        return None
    batches = torch.stack(views).split(_BATCH)
    top = torch.cat([teacher(batch.to(device)).argmax(1).cpu() for batch in batches])
    return _compare(np.array(labels), top.numpy())


def _compare(labels: np.ndarray, answers: np.ndarray) -> Agreement:
    classes = int(max(labels.max(), answers.max())) + 1
    often = [np.bincount(values, minlength=classes) / len(labels) for values in (labels, answers)]
    share = float((labels == answers).mean())
    return Agreement(share, float(often[0] @ often[1]), len(labels))


def check_agreement(
    measured: Agreement | None, num_classes: int, minimum: float | None = None
) -> None:
    """Check that the teacher agrees with the labels clearly more than by chance.

    Args:
        measured: From `measure_agreement`.
        num_classes: Number of classes, C.
        minimum: Least share. None means the larger of 1.5 / C and 5 %, or, below 10 classes, two
            standard deviations above chance.

    Raises:
        DatasetMismatchError: The share is lower. If nothing was measured, a warning says that
            `minimum` was not checked.

    Example:
        >>> check_agreement(Agreement(0.85, 0.001, 256), num_classes=1000)
    """
    if measured is None:
        if minimum is not None:
            _logger.warning(
                "the least agreement of teacher and labels, %g, is not checked: fewer than %d of "
                "the sampled images have labels",
                minimum,
                _ENOUGH,
            )
        return
    least = _least(measured, num_classes) if minimum is None else minimum
    if measured.share < least:
        raise DatasetMismatchError(
            f"the teacher's top class is the image's label in {measured.share:.2%} of sampled "
            f"views, expected at least {least:.2%} with {num_classes} classes (by chance: "
            f"{measured.chance:.2%}): teacher and dataset seem to number their classes "
            f"differently, or the folders are not the teacher's classes. Pass the teacher's order "
            f"as a class map (--class-map FILE); if the teacher is meant to disagree, set the "
            f"minimum agreement to 0 (--min-agreement 0)"
        )


def _least(measured: Agreement, num_classes: int) -> float:
    if num_classes >= _FEW_CLASSES:
        return max(1.5 / num_classes, 0.05)
    if measured.chance > _LARGEST_CHANCE:
        return 0.0
    deviation = math.sqrt(measured.chance * (1 - measured.chance) / measured.views)
    return measured.chance + _DEVIATIONS * deviation
