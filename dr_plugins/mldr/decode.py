"""Decode ml-dr's members into records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dr_plugins.mldr.columns import Columns, read_columns
from dr_plugins.mldr.errors import AlignmentError, ArchiveError
from dr_plugins.mldr.params import convert_mixing_params, convert_params, number_array
from dr_plugins.policies.policy import Policy
from dr_plugins.records import NO_PARTNER, RecordLayout
from dr_plugins.transforms import CenterCrop, RandomCrop, RandomResizedCrop, Resize

_ROUNDING = 1e-3  # tolerance for the sum of a softmax


@dataclass(frozen=True)
class Decoder:
    """Decodes members into records.

    Attributes:
        policy: The set's policy.
        layout: Byte layout of a record.
        samples: Reinforcements per image.
        topk: Classes stored per reinforcement.
        num_classes: Number of classes.
        images: Number of images; upper bound of partner numbers.
    """

    policy: Policy
    layout: RecordLayout
    samples: int
    topk: int
    num_classes: int
    images: int

    def decode(self, content: Any, index: int) -> np.ndarray:
        """Decode the records of one image.

        Args:
            content: The member's plain data.
            index: The image's number, from the member's name.

        Returns:
            Array ``[samples]`` of the layout's dtype, without checksums. Partners are
            indices in the archive, not rows.

        Raises:
            ArchiveError: A value is malformed, out of range, or contradicts the policy.
        """
        params, targets = self._split(content, index)
        records = np.zeros(self.samples, self.layout.dtype)
        self._store_targets(targets, records)
        stored = [t for t in self.policy.transforms if t.field is not None or type(t) is Resize]
        names = [t.name for t in stored]
        columns = read_columns(params, names, [m.name for m in self.policy.mixings])
        size = self.policy.view_size
        for transform, values in zip(stored, columns.view, strict=True):
            array = convert_params(transform, values, size)
            if transform.field is not None:
                records[transform.field.name] = array
        if self.policy.mixings:
            self._store_partners(columns, records, stored)
        return records

    def _split(self, content: Any, index: int) -> tuple[list[Any], list[Any]]:
        if type(content) is not tuple or len(content) != 2 or type(content[1]) is not list:
            raise ArchiveError("it does not hold (index, reinforcements)")
        stated, reinforcements = content
        if type(stated) is not int or stated != index:
            raise ArchiveError(
                f"it holds the reinforcements of image {stated!r:.80}, expected {index}"
            )
        if len(reinforcements) != self.samples:
            raise ArchiveError(
                f"it holds {len(reinforcements)} reinforcements, expected {self.samples}"
            )
        try:
            return [r["params"] for r in reinforcements], [r["prob"] for r in reinforcements]
        except (TypeError, LookupError):
            raise ArchiveError("a reinforcement has no `params` or no `prob`") from None

    def _store_targets(self, targets: list[Any], records: np.ndarray) -> None:
        if not all(type(one) in (tuple, list) and len(one) == 2 for one in targets):
            raise ArchiveError("a `prob` is not (probabilities, classes)")
        probs = number_array([one[0] for one in targets], "f", self.topk, "probabilities")
        ids = number_array([one[1] for one in targets], "i", self.topk, "classes")
        self._check_probabilities(probs)
        if ids.min() < 0 or ids.max() >= self.num_classes:
            raise ArchiveError(
                f"it names classes from {ids.min()} to {ids.max()}, but the dataset has "
                f"{self.num_classes} classes; if the teacher has more, set --num-classes"
            )
        ordered = np.sort(ids, axis=1)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise ArchiveError("a reinforcement names a class twice")
        order = np.argsort(-probs, axis=1, kind="stable")
        records["ids"] = np.take_along_axis(ids, order, 1)
        records["probs"] = np.take_along_axis(probs, order, 1)

    def _check_probabilities(self, probs: np.ndarray) -> None:
        if not ((probs >= 0) & (probs <= 1 + _ROUNDING)).all():
            raise ArchiveError("a probability is not between 0 and 1")
        # No omitted class is more probable than the least probable stored class.
        least, sums = probs.min(axis=1), probs.sum(axis=1)
        lowest = 1 - (self.num_classes - self.topk) * least
        wrong = (sums > 1 + _ROUNDING) | (sums < lowest - _ROUNDING)
        if wrong.any():
            first = int(wrong.argmax())
            raise ArchiveError(
                f"the probabilities of reinforcement {first} sum to {sums[first]:.4g}, but the "
                f"{self.topk} most probable of {self.num_classes} classes, the last with "
                f"{least[first]:.4g}, sum to at least {max(lowest[first], 0):.4g} and at most 1"
            )

    def _store_partners(self, columns: Columns, records: np.ndarray, stored: list[Any]) -> None:
        records["partner"] = NO_PARTNER
        mixed, size = columns.mixed, self.policy.view_size
        partners = number_array(columns.partners, "i", None, "partners")
        if mixed and not 0 <= partners.min() <= partners.max() < self.images:
            raise ArchiveError(f"a partner is not one of {self.images} images")
        records["partner"][mixed] = partners
        for transform, values in zip(stored, columns.partner_view, strict=True):
            array = convert_params(transform, values, size)
            if transform.field is not None:
                records[f"partner_{transform.field.name}"][mixed] = array
        for position, mixing in enumerate(self.policy.mixings):
            records[mixing.field.name] = mixing.unmixed
            values = columns.mixing[position] if mixed else []
            records[mixing.field.name][mixed] = convert_mixing_params(
                mixing.name, values, mixing.unmixed, size
            )


def check_fit(policy: Policy, records: np.ndarray, sizes: np.ndarray, prefix: str = "") -> None:
    """Raise unless all crops are within their images.

    This detects images of one class in the wrong order, which labels cannot.

    Args:
        policy: The set's policy.
        records: Records ``[n]``.
        sizes: (height, width) of the image of each record in pixels, int ``[n, 2]``; zero if
            unknown.
        prefix: Prefix of the fields to check: ``""`` or ``"partner_"``.

    Raises:
        AlignmentError: A crop exceeds its image.
    """
    known = (sizes > 0).all(axis=1)
    records, original = records[known], sizes[known].astype(np.int64)
    room = original
    for transform in policy.transforms:
        if isinstance(transform, RandomResizedCrop):
            box = records[f"{prefix}crop"].astype(np.int64)
            ends = box[:, :2] + box[:, 2:]
        elif isinstance(transform, RandomCrop):
            ends = records[f"{prefix}offset"].astype(np.int64)
            room = room + 2 * transform.padding - transform.size
        elif isinstance(transform, CenterCrop):
            return
        else:
            room = np.array([transform.output_size((h, w)) for h, w in room.tolist()]).reshape(
                -1, 2
            )
            continue
        outside = (ends > room).any(axis=1)
        if outside.any():
            first = int(outside.argmax())
            (height, width), end, most = original[first], ends[first], room[first]
            raise AlignmentError(
                f"it is {height}x{width} pixels (height x width), but {transform.name} reaches to "
                f"{end.tolist()}, with room up to {most.tolist()}"
            )
        return
