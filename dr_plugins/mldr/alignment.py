"""Do the archive's numbers mean these images? The teacher knows: its answers match the labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dr_plugins.mldr.errors import AlignmentError
from dr_plugins.mldr.worker import Vote

__all__ = ["Alignment"]

_ENOUGH = 2000  # images after which a wrong order is certain


class Alignment:
    """Counts how often the teacher's mean answer to an image is the image's label.

    Args:
        names: A name for each set, for messages.
        least: Share below which a set does not belong to the images; 0 accepts everything.
    """

    def __init__(self, names: Sequence[str], least: float) -> None:
        self._names, self._least = names, least
        self._hits, self._votes = [0] * len(names), [0] * len(names)

    def add(self, votes: Iterable[Vote]) -> None:
        """Count votes.

        Raises:
            AlignmentError: It has become clear that a set does not belong to the images.
        """
        for vote in votes:
            if vote.agrees is not None:
                self._hits[vote.part] += vote.agrees
                self._votes[vote.part] += 1
                if self._votes[vote.part] == _ENOUGH:
                    self._check(vote.part)

    def finish(self) -> list[float | None]:
        """Return the share of each set; None where no label is known.

        Raises:
            AlignmentError: A set does not belong to the images.
        """
        for part in range(len(self._names)):
            self._check(part)
        return [self._share(part) for part in range(len(self._names))]

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
