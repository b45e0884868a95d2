"""The key index: which image is which row, packed so that no Python object exists per image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn, overload

import numpy as np

from dr_plugins.errors import FormatError, UnknownImageError
from dr_plugins.quoting import quoted, respelt
from dr_plugins.shards.container import map_tensors, write_tensors

__all__ = ["KeyIndex", "sorted_keys"]


def sorted_keys(keys: Iterable[str]) -> list[str]:
    """Return image keys in the order in which a shard set numbers its rows: by UTF-8 bytes.

    Raises:
        FormatError: A key is empty, contains a NUL character, is not valid UTF-8, or occurs twice.
    """
    try:
        ordered = sorted(keys, key=str.encode)
    except UnicodeEncodeError as error:
        raise FormatError(
            f"image key {error.object!r} is not valid UTF-8; rename the file"
        ) from error
    for previous, key in zip([None, *ordered], ordered, strict=False):
        if not key or "\0" in key:
            raise FormatError(f"image key {key!r} is empty or contains a NUL character")
        if key == previous:
            raise FormatError(f"image key {key!r} occurs twice; keys must be unique")
    return ordered


class KeyIndex(Sequence[str]):
    """Keys of a shard set's images, in row order; row numbers by key.

    Args:
        text: uint8 ``[bytes]``, the sorted keys in UTF-8, one after the other.
        ends: int64 ``[images]``, where each key ends in `text`.

    Example:
        >>> index = KeyIndex.build(["b/2.jpg", "a/1.jpg"])
        >>> index[0], index.rows(["b/2.jpg"]).tolist()
        ('a/1.jpg', [1])
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self._text = text
        self._ends = ends
        # Single keys are read through these: several times faster than indexing an array.
        self._text_bytes, self._end_at = memoryview(text.data), memoryview(ends.data)

    @classmethod
    def build(cls, keys: Iterable[str]) -> KeyIndex:
        """Sort and pack keys; see `sorted_keys` for what is rejected."""
        encoded = [key.encode() for key in sorted_keys(keys)]
        ends = np.cumsum([len(key) for key in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    @classmethod
    def load(cls, path: Path) -> KeyIndex:
        """Map an index file.

        Raises:
            FormatError: The file is missing, truncated or damaged.
        """
        tensors, _ = map_tensors(path)
        text, ends = tensors.get("keys"), tensors.get("ends")
        if text is None or ends is None or text.ndim != 1 or ends.ndim != 1:
            raise FormatError(f"{path} is not a key index: it holds {sorted(tensors)}")
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        if (
            text.dtype != np.uint8
            or np.any(ends <= starts)
            or (len(ends) and ends[-1] != len(text))
        ):
            raise FormatError(f"{path} is damaged: its key lengths do not add up. Copy it again.")
        return cls(text, ends)

    def save(self, path: Path) -> str:
        """Write the index; returns the file's SHA-256."""
        tensors = {"ends": self._ends, "keys": self._text}
        return write_tensors(path, tensors, {"format": "dr-plugins", "version": "1"})

    def digest(self) -> str:
        """Return the SHA-256 over all keys, which identifies the set of images."""
        return hashlib.sha256(self._text.tobytes() + self._ends.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        return self.encoded(row).decode()

    def encoded(self, row: int) -> bytes:
        """Return the UTF-8 bytes of one key."""
        if not 0 <= row < len(self._end_at):
            raise IndexError(f"row {row} of an index of {len(self._ends)} images")
        start = self._end_at[row - 1] if row else 0
        return bytes(self._text_bytes[start : self._end_at[row]])

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """Return the row number of each key.

        Args:
            keys: Image keys, in any order.

        Returns:
            int64 ``[len(keys)]``.

        Raises:
            UnknownImageError: Naming the first keys that are not in the set, and how many are not.
        """
        known = self._as_array()
        # Names that are not valid UTF-8 are in no index; they are to be reported, not to fail here.
        wanted = np.array([key.encode(errors="surrogatepass") for key in keys], dtype=np.bytes_)
        if not len(known):
            rows, missing = np.zeros(len(wanted), np.int64), np.ones(len(wanted), bool)
        else:
            rows = np.searchsorted(known, wanted).astype(np.int64)
            missing = known[np.minimum(rows, len(known) - 1)] != wanted
        if missing.any():
            self._reject([keys[i] for i in np.flatnonzero(missing)[:3]], int(missing.sum()))
        return rows

    def row(self, key: str) -> int:
        """Return the row number of one key, by binary search; see `rows` for bulk look-ups."""
        row = self._search(key)
        if row is None:
            self._reject([key], 1)
        return row

    def _search(self, key: str) -> int | None:
        wanted, low, high = key.encode(errors="surrogatepass"), 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self.encoded(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self.encoded(low) == wanted else None

    def _as_array(self) -> np.ndarray:
        """All keys as fixed-width bytes ``[images]``: temporary, for vectorised comparison."""
        starts = np.concatenate([[0], self._ends[:-1]]).astype(np.int64)
        lengths = (self._ends - starts)[: len(self)]
        width = int(lengths.max(initial=1))
        table = np.zeros((len(self), width), np.uint8)
        table[np.arange(width) < lengths[:, None]] = self._text
        return table.view(f"S{width}").ravel()

    def __reduce__(self) -> tuple[type[KeyIndex], tuple[np.ndarray, np.ndarray]]:
        return KeyIndex, (self._text, self._ends)

    def _reject(self, examples: list[str], count: int) -> NoReturn:
        alike = [
            form for key in examples for form in respelt(key) if self._search(form) is not None
        ]
        here = f", for example {quoted(self[0])}" if len(self) else ""
        if alike:
            here = (
                f", among them {quoted(alike[0])}, which looks the same but is in another Unicode "
                f"normal form: rename the files"
            )
        raise UnknownImageError(
            f"{count} image(s) have no reinforcement: {', '.join(map(quoted, examples))}"
            f"{', ...' if count > len(examples) else ''}. The shard set knows {len(self)} images"
            f"{here}. Point to the image root that was reinforced (keys are paths relative to it), "
            f"or reinforce these images."
        )

    def __repr__(self) -> str:
        return f"KeyIndex({len(self)} images)"
