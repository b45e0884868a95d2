"""Confident learning (Northcutt, Jiang and Chuang, 2021, arXiv 1911.00068) on sparse answers.

An image is a label error if it is confidently of another class than its label says. "Confidently"
is relative to the class: its threshold is the mean probability that the images with this label have
for it (equation 2). So a teacher that is unsure of a class throughout does not make all its images
suspicious, and calibration matters little.
"""

from __future__ import annotations

import numpy as np


def class_thresholds(labels: np.ndarray, label_probs: np.ndarray, num_classes: int) -> np.ndarray:
    """Return each class's threshold: the mean probability of the label over its images.

    Args:
        labels: Integers ``[N]``, within ``[0, C)``.
        label_probs: ``[N]``, probability of each image's label.
        num_classes: C.

    Returns:
        float64 ``[C]``; infinite for classes without images, of which no image can be confident.

    Example:
        >>> class_thresholds(np.array([0, 0, 2]), np.array([0.5, 1.0, 0.25]), 3)
        array([0.75,  inf, 0.25])
    """
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, label_probs, num_classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def confident_classes(
    classes: np.ndarray, probs: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return of which class each image confidently is: column of the confident joint (equation 1).

    It is the most probable one of the classes whose probability reaches their threshold.

    Args:
        classes: Integers ``[N, W]``, the most probable classes first; -1 is padding.
        probs: ``[N, W]``, their probabilities.
        thresholds: ``[C]``.

    Returns:
        int64 ``[N]``, the classes, -1 where none reaches its threshold; and their probabilities.

    Example:
        >>> classes, probs = np.array([[1, 0], [1, 0]]), np.array([[0.6, 0.4], [0.95, 0.05]])
        >>> confident_classes(classes, probs, np.array([0.3, 0.9]))
        (array([0, 1]), array([0.4 , 0.95]))
    """
    reached = (classes >= 0) & (probs >= thresholds[classes] - _TOLERANCE)
    first = reached.argmax(axis=1)
    place = np.arange(len(classes)), first
    found = reached[place]
    return np.where(found, classes[place], -1).astype(np.int64), np.where(found, probs[place], 0)


_TOLERANCE = 1e-6  # the mean of equal numbers may differ from them in the last digit
