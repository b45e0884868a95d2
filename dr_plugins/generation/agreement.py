"""How often teacher and labels agree: what tells classes that are numbered differently."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from dr_plugins import randomness
from dr_plugins.errors import DatasetMismatchError
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.policy import Policy
from dr_plugins.sources import ImageSource

__all__ = ["check_agreement", "label_agreement", "least_agreement", "measure_agreement"]

_SAMPLE, _ENOUGH, _BATCH = 256, 20, 64  # images
_FEW_CLASSES = 10  # below, a weak teacher cannot be told from a wrong order


def label_agreement(policy: Policy, records: np.ndarray, labels: np.ndarray) -> float | None:
    """Return how often the teacher's top class is the image's label.

    Args:
        policy: Of the records.
        records: Structured array ``[images, S]``.
        labels: Integers ``[images]``, -1 where unknown.

    Returns:
        Share within ``[0, 1]`` over the views that are not mixed; None if no label is known.
    """
    usable = ~policy.is_mixed(records) & (labels >= 0)[:, None]
    hits = records["ids"][..., 0] == labels[:, None]
    return float(hits[usable].mean()) if usable.any() else None


def measure_agreement(
    source: ImageSource, teacher: Ensemble, policy: Policy, device: str | torch.device
) -> float | None:
    """Ask the teacher about one view of each of some images, spread over the whole dataset.

    Args:
        source: The images; up to 256 of them are read.
        teacher: On `device`.
        policy: Makes the views; what it mixes is left unmixed.
        device: Where the teacher runs.

    Returns:
        Share of views whose label is the teacher's top class; None with less than 20 labels.

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
    return float((top == torch.tensor(labels)).float().mean())


def least_agreement(num_classes: int, minimum: float | None = None) -> float:
    """Return the share below which a teacher is refused.

    Args:
        num_classes: Number of classes, C.
        minimum: What the user asked for; None for the default, the larger of 1.5 / C and 5 %, and 0
            below 10 classes.
    """
    if minimum is not None:
        return minimum
    return max(1.5 / num_classes, 0.05) if num_classes >= _FEW_CLASSES else 0.0


def check_agreement(share: float | None, num_classes: int, minimum: float | None = None) -> None:
    """Refuse a teacher that agrees with the labels hardly more than by chance.

    Args:
        share: From `measure_agreement`.
        num_classes: Number of classes, C.
        minimum: See `least_agreement`.

    Raises:
        DatasetMismatchError: The share is lower.

    Example:
        >>> check_agreement(0.85, num_classes=1000)
    """
    least = least_agreement(num_classes, minimum)
    if share is not None and share < least:
        raise DatasetMismatchError(
            f"the teacher's top class is the image's label in {share:.2%} of sampled views, "
            f"expected at least {least:.2%} with {num_classes} classes: teacher and dataset seem "
            f"to number their classes differently. Give the teacher's order with a class map "
            f"(--class-map FILE); if the teacher is meant to disagree, set the minimum agreement "
            f"to 0 (--min-agreement 0)"
        )
