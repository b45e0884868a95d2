"""How often teacher and labels agree: what tells classes that are numbered differently."""

from __future__ import annotations

import numpy as np

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.policy import Policy

__all__ = ["check_agreement", "label_agreement"]

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


def check_agreement(share: float | None, num_classes: int, minimum: float | None = None) -> None:
    """Refuse a teacher that agrees with the labels no more than by chance.

    Args:
        share: From `label_agreement`.
        num_classes: Number of classes, C.
        minimum: The least share to accept; by default 1.5 / C, and 0 below 10 classes.

    Raises:
        DatasetMismatchError: The share is lower.

    Example:
        >>> check_agreement(0.85, num_classes=1000)
    """
    if minimum is None:
        minimum = 1.5 / num_classes if num_classes >= _FEW_CLASSES else 0.0
    if share is not None and share < minimum:
        raise DatasetMismatchError(
            f"the teacher's top class is the image's label in {share:.2%} of a shard's views, "
            f"expected at least {minimum:.2%} with {num_classes} classes: teacher and dataset seem "
            f"to number their classes differently. Give the teacher's order with a class map; if "
            f"the teacher is meant to disagree, set the minimum agreement to 0"
        )
