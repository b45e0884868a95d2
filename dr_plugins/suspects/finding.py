"""Finding the suspects of shard sets, from their statistics."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike
from typing import NamedTuple

import numpy as np

from dr_plugins.errors import DatasetMismatchError, SettingsMismatchError
from dr_plugins.shards.address import Place
from dr_plugins.shards.location import Location
from dr_plugins.shards.reader import ShardSet
from dr_plugins.statistics import ImageStatistics, average_answers, open_statistics
from dr_plugins.suspects.confident_learning import class_thresholds, confident_classes

_ROWS = 4096  # averaged answers at a time
_logger = logging.getLogger(__name__)


class Suspect(NamedTuple):
    """An image that is confidently of another class than its label says.

    Attributes:
        key: The image.
        label: Its class.
        suggested: The class that the teacher suggests.
        label_prob: Probability of the label, averaged over views: the self-confidence.
        suggested_prob: Probability of the suggested class.
        margin: ``(label_prob - largest other + 1) / 2``, the normalized margin, within [0, 1]; the
            less, the more suspicious.
        agreement: Share of the views whose top class is the label.

    Example:
        >>> Suspect("boot/1.png", 9, 7, 0.02, 0.9, 0.06, 0.0).suggested
        7
    """

    key: str
    label: int
    suggested: int
    label_prob: float
    suggested_prob: float
    margin: float
    agreement: float


def find_suspects(
    sets: ShardSet | Place | Sequence[ShardSet | Place],
    *,
    sort: str = "margin",
    labels: Sequence[int] | None = None,
    workers: int = 0,
    progress: bool = False,
) -> list[Suspect]:
    """Return the images whose label the teachers do not believe, most suspicious first.

    These are the images off the diagonal of the confident joint, computed from the answers averaged
    over all unmixed views. Images without a label, or with mixed views only, are left out.

    Args:
        sets: A set or its address; or several, of different images with the same classes, one for
            each fold, whose teacher was trained on the other folds.
        sort: ``"margin"``, or ``"label_prob"`` (self-confidence); equal ones are in the order of
            the sets and their keys.
        labels: Only images with these labels; None means all. Thresholds are those of all images.
        workers: Processes that compute statistics, unless they are known; 0 uses this one.
        progress: Show a progress bar.

    Raises:
        SettingsMismatchError: The sets differ in their classes, or share a suspect.
        DatasetMismatchError: No image has a label and an unmixed view.
        FormatError: A shard is missing or damaged.
        ValueError: There is no set, or `sort` is not one of the choices.

    Example:
        >>> find_suspects("imagenet-plus")[0].key                           # doctest: +SKIP
        'n03642806/n03642806_5867.JPEG'
    """
    if sort not in ("margin", "label_prob"):
        raise ValueError(f"sort is {sort!r}; expected 'margin' or 'label_prob'")
    given = [sets] if isinstance(sets, ShardSet | str | PathLike | Location) else sets
    if not given:
        raise ValueError("no shard set is given; expected one or more")
    opened = [each if isinstance(each, ShardSet) else ShardSet(each) for each in given]
    _check_classes(opened)
    columns = [open_statistics(each, workers, progress=progress) for each in opened]
    usable = [_usable(each) for each in columns]
    thresholds = class_thresholds(
        np.concatenate([each.label[rows] for each, rows in zip(columns, usable, strict=True)]),
        np.concatenate([each.label_prob[rows] for each, rows in zip(columns, usable, strict=True)]),
        opened[0].manifest.num_classes,
    )
    if not np.isfinite(thresholds).any():
        raise DatasetMismatchError(
            f"no image of {opened[0].location} has a label and a view that is not mixed with "
            f"another image; reinforce labelled images with a policy that does not mix each view"
        )
    found = []
    for shards, statistics, rows in zip(opened, columns, usable, strict=True):
        if labels is not None:
            rows = rows[np.isin(statistics.label[rows], labels)]
        found += _suspects(shards, statistics, rows, thresholds)
    _check_keys(found)
    return sorted(found, key=lambda suspect: getattr(suspect, sort))


def _check_classes(sets: Sequence[ShardSet]) -> None:
    first = sets[0].manifest
    for other in sets[1:]:
        settings = other.manifest.settings
        if any(settings[name] != first.settings[name] for name in ("num_classes", "class_names")):
            raise SettingsMismatchError(
                f"{sets[0].location} and {other.location} have different classes; pass sets of the "
                f"same dataset"
            )


def _check_keys(found: Sequence[Suspect]) -> None:
    seen: set[str] = set()
    for suspect in found:
        if suspect.key in seen:
            raise SettingsMismatchError(
                f"image {suspect.key!r} is in two of the sets; pass sets of different images"
            )
        seen.add(suspect.key)


def _usable(statistics: ImageStatistics) -> np.ndarray:
    """Rows with a label and an unmixed view."""
    is_usable = (statistics.label >= 0) & ~statistics.mixed
    if not is_usable.all():
        _logger.warning(
            "%d of %d images have no label, or mixed views only: they are not judged",
            len(is_usable) - np.count_nonzero(is_usable),
            len(is_usable),
        )
    return np.flatnonzero(is_usable)


def _suspects(
    shards: ShardSet, statistics: ImageStatistics, rows: np.ndarray, thresholds: np.ndarray
) -> list[Suspect]:
    labels, label_probs = statistics.label[rows], statistics.label_prob[rows]
    classes, probs = statistics.top_classes[rows], statistics.top_probs[rows]
    suggested, suggested_probs = confident_classes(classes, probs, thresholds)
    # A class that is less probable than these may be confident too, if its threshold is that low.
    unclear = np.flatnonzero((suggested < 0) & (probs[:, -1] >= thresholds.min()))
    for start in range(0, len(unclear), _ROWS):
        part = unclear[start : start + _ROWS]
        answers = average_answers(shards, rows[part])
        suggested[part], suggested_probs[part] = confident_classes(*answers, thresholds)
    margins = (label_probs - np.where(classes == labels[:, None], 0, probs).max(1) + 1) / 2
    agreements = statistics.agreement[rows]
    return [
        Suspect(
            shards.keys[int(rows[i])],
            int(labels[i]),
            int(suggested[i]),
            float(label_probs[i]),
            float(suggested_probs[i]),
            float(margins[i]),
            float(agreements[i]),
        )
        for i in np.flatnonzero((suggested >= 0) & (suggested != labels)).tolist()
    ]
