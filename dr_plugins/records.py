"""The record: one reinforcement as a packed little-endian struct, described by a table of fields.

Reader and writer both work from the same `RecordLayout`; its numpy dtype *is* the byte layout.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from dr_plugins.errors import FormatError, VersionError

if TYPE_CHECKING:
    import torch

NO_PARTNER = (1 << 32) - 1
"""Value of a record's field ``partner`` if no other image is mixed in."""

_DTYPES = frozenset({"<u1", "<u2", "<u4", "<f2", "<f4", "<f8"})
_FLOATS = {"float16": "<f2", "float32": "<f4"}
_CHECKSUM = "crc32"
# The CRC-32 of any data followed by its little-endian CRC-32 is this constant.
_RESIDUE = 0x2144DF1C


@dataclass(frozen=True)
class Field:
    """One named value, or small array of values, inside a record.

    Attributes:
        name: Unique within a record.
        dtype: One of ``<u1 <u2 <u4 <f2 <f4 <f8`` (numpy notation, always little-endian).
        shape: Array shape; empty for a scalar.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise FormatError(
                f"record field {self.name!r} has dtype {self.dtype!r}; "
                f"expected one of {sorted(_DTYPES)}"
            )


@dataclass(frozen=True)
class AnswerField:
    """One part of the teacher's answer that records store.

    Attributes:
        name: Its name as a field of a record.
        dtype: From (number of the teacher's classes, the set's ``probs_dtype``) to a `Field.dtype`.
        compute: From the probabilities of a batch, float32 ``[B, C]`` on the teacher's device, and
            their top k, descending, with ``values`` and ``indices`` ``[B, k]``, to what is stored:
            ``[B, k]`` if it is per class, else ``[B]``.
        is_per_class: Whether there is a value for each of the k stored classes, in their order; a
            subset of fewer classes keeps the first ones. Otherwise one value for the whole answer.
    """

    name: str
    dtype: Callable[[int, str], str]
    compute: Callable[[torch.Tensor, Any], torch.Tensor]
    is_per_class: bool = False

    def field(self, topk: int, num_classes: int, probs_dtype: str) -> Field:
        """Return the record field."""
        shape = (topk,) if self.is_per_class else ()
        return Field(self.name, self.dtype(num_classes, probs_dtype), shape)


def _ids_dtype(num_classes: int, probs_dtype: str) -> str:
    return "<u2" if num_classes <= 1 << 16 else "<u4"


def _probs_dtype(num_classes: int, probs_dtype: str) -> str:
    if probs_dtype not in _FLOATS:
        raise FormatError(f"probs dtype is {probs_dtype!r}; expected 'float16' or 'float32'")
    return _FLOATS[probs_dtype]


ANSWER_FIELDS: tuple[AnswerField, ...] = (
    AnswerField("ids", _ids_dtype, lambda probs, top: top.indices, is_per_class=True),
    AnswerField("probs", _probs_dtype, lambda probs, top: top.values, is_per_class=True),
)
"""All that records can store of an answer, in byte order. Append new ones: sets that are generated
from then on store them, and their settings list them."""

BASIC_ANSWER = ("ids", "probs")
"""The parts that every set has; the settings of a set that has no others do not list them."""


def answer_names() -> tuple[str, ...]:
    """Return the names of `ANSWER_FIELDS`."""
    return tuple(answer.name for answer in ANSWER_FIELDS)


def answer_fields(names: Sequence[str]) -> tuple[AnswerField, ...]:
    """Return the parts of an answer with these names, in byte order.

    Raises:
        VersionError: A name is unknown.
        FormatError: One of `BASIC_ANSWER` is missing, or the order is another one.
    """
    unknown = set(names) - set(answer_names())
    if unknown:
        raise VersionError(
            f"records store {sorted(unknown)} of the teacher's answer, this dr-plugins knows "
            f"{list(answer_names())}. Upgrade dr-plugins."
        )
    found = tuple(answer for answer in ANSWER_FIELDS if answer.name in names)
    if tuple(answer.name for answer in found) != tuple(names) or not set(BASIC_ANSWER) <= set(
        names
    ):
        raise FormatError(
            f"records store {list(names)} of the teacher's answer; expected {list(BASIC_ANSWER)} "
            f"and maybe others, in the order {list(answer_names())}"
        )
    return found


def target_fields(
    topk: int,
    num_classes: int,
    probs_dtype: str = "float16",
    names: Sequence[str] = BASIC_ANSWER,
) -> tuple[Field, ...]:
    """Return the record fields that hold a teacher's answer.

    Args:
        topk: Number of classes stored for each reinforcement, at least 1.
        num_classes: Number of the teacher's classes; ids take two bytes up to 65,536 classes.
        probs_dtype: ``"float16"`` or the lossless ``"float32"``.
        names: The parts of the answer, see `ANSWER_FIELDS`.

    Returns:
        ``ids`` (most probable class first) and ``probs``, both of shape ``[topk]``, and the others.

    Raises:
        FormatError: `topk` is not in ``[1, num_classes]``, or `probs_dtype` is unknown.
        VersionError: A part is unknown.

    Example:
        >>> [f.dtype for f in target_fields(10, 1000)]
        ['<u2', '<f2']
    """
    if not 1 <= topk <= num_classes:
        raise FormatError(
            f"top-k is {topk} with {num_classes} classes; choose 1 <= k <= {num_classes}"
        )
    return tuple(answer.field(topk, num_classes, probs_dtype) for answer in answer_fields(names))


class RecordLayout:
    """Names, types and offsets of a record's fields: packed, with the checksum last.

    Args:
        fields: The fields before the checksum, in byte order.

    Example:
        >>> layout = RecordLayout([Field("flip", "<u1"), *target_fields(2, 10)])
        >>> layout.itemsize
        13
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        table = [(f.name, f.dtype, f.shape) for f in (*self.fields, Field(_CHECKSUM, "<u4"))]
        if len({name for name, _, _ in table}) != len(table):
            raise FormatError(f"record fields are not unique: {[name for name, _, _ in table]}")
        self.dtype = np.dtype(table)

    @property
    def parameters(self) -> tuple[Field, ...]:
        """The augmentation's fields, without the teacher's answer and the checksum."""
        return tuple(takewhile(lambda field: field.name != ANSWER_FIELDS[0].name, self.fields))

    @property
    def answers(self) -> tuple[Field, ...]:
        """The teacher's answer, without the augmentation's fields and the checksum."""
        return self.fields[len(self.parameters) :]

    @property
    def itemsize(self) -> int:
        """Bytes of one record."""
        return self.dtype.itemsize

    def seal(self, records: np.ndarray, key: bytes, start: int) -> None:
        """Write the checksum of each record, in place.

        Args:
            records: Array of `dtype`, shape ``[n]``, contiguous.
            key: UTF-8 key of the image that the records belong to.
            start: `set_checksum` of the set.
        """
        rows = records.view(np.uint8).reshape(len(records), self.itemsize)
        payload = np.ascontiguousarray(rows[:, :-4])
        image = zlib.crc32(key, start)
        records[_CHECKSUM] = [zlib.crc32(row, image) for row in payload]

    def damaged(self, records: np.ndarray, keys: Sequence[bytes], start: int) -> int | None:
        """Return the position of the first record that fails its checksum, or None.

        The checksum covers the set's id and the image's key, so an intact record of another set or
        image fails too.

        Args:
            records: Array of `dtype`, shape ``[n]``, contiguous.
            keys: Expected UTF-8 image key of each record, length ``n``.
            start: `set_checksum` of the expected set.
        """
        rows = records.view(np.uint8).reshape(len(records), self.itemsize)
        for position, (row, key) in enumerate(zip(rows, keys, strict=True)):
            if not is_whole(row, key, start):
                return position
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the layout in the form that the manifest stores."""
        entries = [
            {
                "name": name,
                "dtype": self.dtype[name].base.str.replace("|", "<"),
                "shape": list(self.dtype[name].shape),
                "offset": self.dtype.fields[name][1],  # type: ignore[index]
            }
            for name in self.dtype.names or ()
        ]
        return {"bytes": self.itemsize, "fields": entries}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RecordLayout:
        """Rebuild a layout from a manifest.

        Raises:
            FormatError: The table has holes, unknown types, or does not end with the checksum.
        """
        try:
            table = [Field(e["name"], e["dtype"], tuple(e["shape"])) for e in data["fields"]]
            layout = cls(table[:-1])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise FormatError(f"the manifest's record table is malformed: {error!r}") from error
        if layout.to_json() != data:
            raise FormatError(
                f"the manifest's record table is inconsistent: stated {data}, "
                f"a packed layout of the same fields is {layout.to_json()}"
            )
        return layout

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecordLayout) and self.dtype == other.dtype

    def __hash__(self) -> int:
        return hash(self.dtype)

    def __repr__(self) -> str:
        return f"RecordLayout({self.itemsize} bytes: {', '.join(self.dtype.names or ())})"


def set_checksum(set_id: str) -> int:
    """Return the CRC-32 of a `Manifest.set_id`, the start value of the set's record checksums."""
    return zlib.crc32(set_id.encode())


def is_whole(record: Any, key: bytes, start: int) -> bool:
    """Whether a record, checksum included, is intact and belongs to this image of this set.

    Args:
        record: All bytes of the record (any bytes-like object).
        key: UTF-8 key of the image.
        start: `set_checksum` of the set.
    """
    return zlib.crc32(record, zlib.crc32(key, start)) == _RESIDUE
