"""Check that an archive belongs to these images: teacher predictions must match labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dr_plugins.mldr.errors import AlignmentError
from dr_plugins.mldr.worker import Prediction

_ENOUGH = 2000  # images after which a wrong order is certain
_FALSE_ALARM = 0.01  # probability of rejecting classes in the right order


class ClassAgreement(NamedTuple):
    """The teacher's predictions for the images of one class.

    Attributes:
        label: The class.
        images: Number of its images.
        agreeing: Number of images predicted as this class.
        mode: The class predicted most often.
        in_mode: Number of images predicted as `mode`.

    Example:
        >>> taken_for_another = ClassAgreement(label=0, images=50, agreeing=4, mode=7, in_mode=45)
    """

    label: int
    images: int
    agreeing: int
    mode: int
    in_mode: int


class Agreement(NamedTuple):
    """How often the teacher's mean prediction for an image is the image's label.

    Attributes:
        share: Share of all images.
        classes: One entry per class, in label order.

    Example:
        >>> Agreement(0.9, [ClassAgreement(0, images=50, agreeing=45, mode=0, in_mode=45)]).share
        0.9
    """

    share: float
    classes: list[ClassAgreement]


class Alignment:
    """Counts how often the teacher's mean prediction for an image is the image's label.

    Args:
        names: Name of each set, for messages.
        least: Minimum share for a set to be accepted; 0 accepts everything.
        class_names: Names of the classes, for messages; None if unknown.
    """

    def __init__(
        self, names: Sequence[str], least: float, class_names: Sequence[str] | None = None
    ) -> None:
        self._names, self._least, self._class_names = names, least, class_names
        self._counts: list[Counter[tuple[int, int]]] = [Counter() for _ in names]
        self._hits, self._predictions = [0] * len(names), [0] * len(names)

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Count predictions.

        Raises:
            AlignmentError: A set clearly does not belong to the images.
        """
        for prediction in predictions:
            if prediction.label >= 0:
                self._counts[prediction.set_number][prediction.label, prediction.predicted] += 1
                self._hits[prediction.set_number] += prediction.predicted == prediction.label
                self._predictions[prediction.set_number] += 1
                if self._predictions[prediction.set_number] == _ENOUGH:
                    self._check(prediction.set_number)

    def finish(self) -> list[Agreement | None]:
        """Return the agreement of each set; None if no label is known.

        Raises:
            AlignmentError: A set does not belong to the images.
        """
        found = []
        for set_number in range(len(self._names)):
            self._check(set_number)
            classes = _by_class(self._counts[set_number])
            if self._least > 0:
                self._check_classes(set_number, classes)
            share = self._share(set_number)
            found.append(None if share is None else Agreement(share, classes))
        return found

    def name(self, label: int) -> str:
        """Return the name of a class, or its number if it has no name."""
        names = self._class_names
        return names[label] if names is not None and label < len(names) else f"number {label}"

    def _share(self, set_number: int) -> float | None:
        return (
            self._hits[set_number] / self._predictions[set_number]
            if self._predictions[set_number]
            else None
        )

    def _check(self, set_number: int) -> None:
        share = self._share(set_number)
        if self._least <= 0 or (share is not None and share >= self._least):
            return
        found = (
            "no label is known"
            if share is None
            else f"the teacher's mean prediction is the label of {share:.1%} of "
            f"{self._predictions[set_number]:,} images, expected at least {self._least:.0%}"
        )
        raise AlignmentError(
            f"{self._names[set_number]}: {found}. ml-dr knows an image only by its position in "
            f"torchvision's order of the training set (classes and files sorted by name): every "
            f"image must be there under its original name. Compare with the published list, or "
            f"give the order with --file-list. If the teacher is really that weak, lower "
            f"--min-agreement."
        )

    def _check_classes(self, set_number: int, classes: list[ClassAgreement]) -> None:
        for cycle in _cycles({one.label: one.mode for one in classes}):
            members = [one for one in classes if one.label in cycle]
            if not _is_swap(members, len(classes)):
                continue
            shown = ", ".join(
                f"{self.name(one.label)!r} (predicted as {self.name(one.mode)!r} for "
                f"{one.in_mode} of {one.images} images)"
                for one in members[:5]
            )
            raise AlignmentError(
                f"{self._names[set_number]}: {len(members)} classes are swapped: {shown}. The "
                f"images, or the lines of --file-list, must be in torchvision's order of the "
                f"training set (classes and files sorted by name). To import them anyway, set "
                f"--min-agreement 0."
            )


def _by_class(counts: Counter[tuple[int, int]]) -> list[ClassAgreement]:
    rows: dict[int, Counter[int]] = {}
    for (label, predicted), count in counts.items():
        rows.setdefault(label, Counter())[predicted] = count
    found = []
    for label, row in sorted(rows.items()):
        # The label wins ties.
        mode = max(row, key=lambda predicted: (row[predicted], predicted == label, -predicted))
        found.append(ClassAgreement(label, row.total(), row[label], mode, row[mode]))
    return found


def _cycles(successor: dict[int, int]) -> list[set[int]]:
    """Return the cycles of a map that have more than one element."""
    cycles, seen = [], set[int]()
    for start in successor:
        path: list[int] = []
        at = start
        while at in successor and at not in seen:
            seen.add(at)
            path.append(at)
            at = successor[at]
        if at in path and path[-1] != at:
            cycles.append(set(path[path.index(at) :]))
    return cycles


def _is_swap(members: list[ClassAgreement], classes: int) -> bool:
    """Return whether each class is predicted as the next one too often for chance.

    A weak teacher may confuse one class with another. But if the labels are right, it does not
    prefer the next class for every class of a cycle: of the images predicted as either, at least
    half are predicted correctly. The Chernoff bound of this binomial test is corrected for the
    number of possible cycles, so a few images are not enough evidence.
    """
    own = sum(one.agreeing for one in members)
    images = own + sum(one.in_mode for one in members)
    share = own / images
    divergence = math.log(2) + sum(p * math.log(p) for p in (share, 1 - share) if p > 0)
    possible = len(members) * math.log(classes) - math.log(len(members))
    return possible - images * divergence < math.log(_FALSE_ALARM)
