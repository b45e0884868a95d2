"""Do the archive's numbers mean these images? The teacher knows: its answers match the labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dr_plugins.mldr.errors import AlignmentError
from dr_plugins.mldr.worker import Vote

__all__ = ["Agreement", "Alignment", "ClassAgreement"]

_ENOUGH = 2000  # images after which a wrong order is certain
_FALSE_ALARM = 0.01  # probability that classes in the right order are taken for exchanged ones


class ClassAgreement(NamedTuple):
    """How the teacher answers to the images of one class.

    Attributes:
        label: The class.
        images: Number of its images.
        agreeing: Those that the teacher takes for this class.
        mode: The class that most of them are taken for.
        in_mode: Their number.

    Example:
        >>> taken_for_another = ClassAgreement(label=0, images=50, agreeing=4, mode=7, in_mode=45)
    """

    label: int
    images: int
    agreeing: int
    mode: int
    in_mode: int


class Agreement(NamedTuple):
    """How often the teacher's mean answer to an image is the image's label.

    Attributes:
        share: Of all images.
        classes: One entry for each class, in label order.

    Example:
        >>> Agreement(0.9, [ClassAgreement(0, images=50, agreeing=45, mode=0, in_mode=45)]).share
        0.9
    """

    share: float
    classes: list[ClassAgreement]


class Alignment:
    """Counts how often the teacher's mean answer to an image is the image's label.

    Args:
        names: A name for each set, for messages.
        least: Share below which a set does not belong to the images; 0 accepts everything.
        class_names: Names of the classes, for messages; None if unknown.
    """

    def __init__(
        self, names: Sequence[str], least: float, class_names: Sequence[str] | None = None
    ) -> None:
        self._names, self._least, self._class_names = names, least, class_names
        self._answers: list[Counter[tuple[int, int]]] = [Counter() for _ in names]
        self._hits, self._votes = [0] * len(names), [0] * len(names)

    def add(self, votes: Iterable[Vote]) -> None:
        """Count votes.

        Raises:
            AlignmentError: It has become clear that a set does not belong to the images.
        """
        for vote in votes:
            if vote.label >= 0:
                self._answers[vote.part][vote.label, vote.answer] += 1
                self._hits[vote.part] += vote.answer == vote.label
                self._votes[vote.part] += 1
                if self._votes[vote.part] == _ENOUGH:
                    self._check(vote.part)

    def finish(self) -> list[Agreement | None]:
        """Return the agreement of each set; None where no label is known.

        Raises:
            AlignmentError: A set does not belong to the images.
        """
        found = []
        for part in range(len(self._names)):
            self._check(part)
            classes = _by_class(self._answers[part])
            if self._least > 0:
                self._check_classes(part, classes)
            share = self._share(part)
            found.append(None if share is None else Agreement(share, classes))
        return found

    def name(self, label: int) -> str:
        """Return the name of a class, or else its number."""
        names = self._class_names
        return names[label] if names is not None and label < len(names) else f"number {label}"

    def _share(self, part: int) -> float | None:
        return self._hits[part] / self._votes[part] if self._votes[part] else None

    def _check(self, part: int) -> None:
        share = self._share(part)
        if self._least <= 0 or (share is not None and share >= self._least):
            return
        found = (
            "no label is known"
            if share is None
            else f"the teacher's mean answer is the label of {share:.1%} of {self._votes[part]:,} "
            f"images, at least {self._least:.0%} were expected"
        )
        raise AlignmentError(
            f"{self._names[part]}: {found}. ml-dr knows an image only by its position in "
            f"torchvision's order of the training set (classes and files sorted by name): every "
            f"image must be there under its original name. Compare with the published list, or "
            f"give the order with --file-list. If the teacher really is that weak, lower "
            f"--min-agreement."
        )

    def _check_classes(self, part: int, classes: list[ClassAgreement]) -> None:
        for cycle in _cycles({one.label: one.mode for one in classes}):
            members = [one for one in classes if one.label in cycle]
            if not _is_exchange(members, len(classes)):
                continue
            shown = ", ".join(
                f"{self.name(one.label)!r} (taken for {self.name(one.mode)!r} in {one.in_mode} of "
                f"{one.images} images)"
                for one in members[:5]
            )
            raise AlignmentError(
                f"{self._names[part]}: {len(members)} classes have changed places: {shown}. The "
                f"images, or the lines of --file-list, must be in torchvision's order of the "
                f"training set (classes and files sorted by name). To import them all the same, "
                f"give --min-agreement 0."
            )


def _by_class(answers: Counter[tuple[int, int]]) -> list[ClassAgreement]:
    counts: dict[int, Counter[int]] = {}
    for (label, answer), count in answers.items():
        counts.setdefault(label, Counter())[answer] = count
    found = []
    for label, row in sorted(counts.items()):
        # Of equally frequent answers, the right one is believed.
        mode = max(row, key=lambda answer: (row[answer], answer == label, -answer))
        found.append(ClassAgreement(label, row.total(), row[label], mode, row[mode]))
    return found


def _cycles(successor: dict[int, int]) -> list[set[int]]:
    """The cycles of more than one element that a map runs into."""
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


def _is_exchange(members: list[ClassAgreement], classes: int) -> bool:
    """Whether these classes are each taken for the next one too often to be chance.

    A weak teacher may prefer one class to another. But if the labels are right, it does not
    prefer, for each class of a cycle, the next one: of the images that it takes for either, at
    least half are taken for the right one. The Chernoff bound of this binomial test is corrected
    for the number of cycles that there could be, so that few images are no evidence.
    """
    own = sum(one.agreeing for one in members)
    images = own + sum(one.in_mode for one in members)
    share = own / images
    divergence = math.log(2) + sum(p * math.log(p) for p in (share, 1 - share) if p > 0)
    possible = len(members) * math.log(classes) - math.log(len(members))
    return possible - images * divergence < math.log(_FALSE_ALARM)
