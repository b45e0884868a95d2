"""The key index: maps image keys to rows, packed to avoid a Python object per image."""

from __future__ import annotations

import bisect
import hashlib
import heapq
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn, overload

import numpy as np

from dr_plugins.errors import FormatError, SettingsMismatchError, UnknownImageError
from dr_plugins.shards.address import Place
from dr_plugins.shards.container import map_tensors, write_tensors
from dr_plugins.utils.quoting import quoted, respelt

_CHUNK = 1 << 16  # keys that are looked at together


class KeyIndex(Sequence[str]):
    """Keys of a shard set's images, in row order; also looks up rows by key.

    Args:
        text: uint8 ``[bytes]``, the sorted keys in UTF-8, concatenated.
        ends: int64 ``[images]``, where each key ends in `text`.

    Example:
        >>> index = KeyIndex.build(["b/2.jpg", "a/1.jpg"])
        >>> index[0], index.rows(["b/2.jpg"]).tolist()
        ('a/1.jpg', [1])
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self._text = text
        self._ends = ends
        # For reading single keys: several times faster than indexing an array.
        self._text_bytes, self._end_at = memoryview(text.data), memoryview(ends.data)

    @classmethod
    def build(cls, keys: Iterable[str]) -> KeyIndex:
        """Sort keys by their UTF-8 bytes, which is the order of the rows, and pack them.

        Raises:
            FormatError: A key is empty, contains a NUL character, is not valid UTF-8, or occurs
                twice.
        """
        text, ends, previous = bytearray(), array("q"), ""
        for key in sorted(keys):  # by code points, which gives the order of UTF-8
            if not key or "\0" in key:
                raise FormatError(f"image key {key!r} is empty or contains a NUL character")
            if key == previous:
                raise FormatError(f"image key {key!r} occurs twice; keys must be unique")
            try:
                text += key.encode()
            except UnicodeEncodeError as error:
                raise FormatError(
                    f"image key {key!r} is not valid UTF-8; rename the file"
                ) from error
            ends.append(len(text))
            previous = key
        return cls(np.frombuffer(text, np.uint8), np.frombuffer(ends, np.int64))

    @classmethod
    def load(cls, path: Place, sha256: str | None = None) -> KeyIndex:
        """Map an index file; see `map_tensors`.

        Raises:
            FormatError: The file is missing, truncated or damaged.
        """
        tensors, _ = map_tensors(path, sha256)
        text, ends = tensors.get("keys"), tensors.get("ends")
        if text is None or ends is None or text.ndim != 1 or ends.ndim != 1:
            raise FormatError(f"{path} is not a key index: it holds {sorted(tensors)}")
        is_whole = text.dtype == np.uint8 and ends.dtype == np.int64
        if not is_whole or not _rises(ends) or len(text) != (ends[-1] if len(ends) else 0):
            raise FormatError(f"{path} is damaged: its key lengths do not add up. Copy it again.")
        return cls(text, np.require(ends, requirements="A"))  # other writers may not align it

    def save(self, path: Place) -> str:
        """Write the index; returns the file's SHA-256."""
        tensors = {"ends": self._ends, "keys": self._text}
        return write_tensors(path, tensors, {"format": "dr-plugins", "version": "1"})

    def digest(self) -> str:
        """Return the SHA-256 over all keys, which identifies the set of images."""
        digest = hashlib.sha256()
        for part in (self._text, self._ends):
            if len(part):
                digest.update(np.ascontiguousarray(part).data.cast("B"))
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        key = self.encoded(row)
        try:
            return key.decode()
        except UnicodeDecodeError as error:
            raise FormatError(
                f"image key {key!r} of row {row} is not valid UTF-8: the key index is damaged. "
                f"Copy index.safetensors again."
            ) from error

    def encoded(self, row: int) -> bytes:
        """Return the UTF-8 bytes of one key."""
        if not 0 <= row < len(self._end_at):
            raise IndexError(f"row {row} of an index of {len(self._ends)} images")
        start = self._end_at[row - 1] if row else 0
        return bytes(self._text_bytes[start : self._end_at[row]])

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._search(key) is not None

    def containing(self, text: str) -> np.ndarray:
        """Return the rows of all keys that contain `text`: int64, ascending.

        Example:
            >>> KeyIndex.build(["b/2.jpg", "a/1.jpg"]).containing("2.j").tolist()
            [1]
        """
        wanted = text.encode(errors="surrogatepass")
        if not wanted:
            return np.arange(len(self))
        # All keys at once: a hit may begin in one key and end in the next.
        hits = np.flatnonzero(self._text[: max(len(self._text) - len(wanted) + 1, 0)] == wanted[0])
        for offset, byte in enumerate(wanted[1:], 1):
            hits = hits[self._text[hits + offset] == byte]
        rows = np.searchsorted(self._ends, hits, side="right")
        rows = rows[hits + len(wanted) <= self._ends[rows]]
        return rows[np.flatnonzero(np.diff(rows, prepend=-1))]

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """Return the row number of each key.

        Args:
            keys: Image keys, in any order.

        Returns:
            int64 ``[len(keys)]``.

        Raises:
            UnknownImageError: Keys are not in the set; names the first ones and their number.
        """
        rows = np.empty(len(keys), np.int64)
        missing: list[int] = []
        for first in range(0, len(keys), _CHUNK):  # bounds the memory
            part = keys[first : first + _CHUNK]
            # No index contains names that are not valid UTF-8: report them instead of failing here.
            wanted = [key.encode(errors="surrogatepass") for key in part]
            found = self._consecutive(wanted)
            rows[first : first + len(part)] = self._found(wanted) if found is None else found
            if found is None:
                missing += (np.flatnonzero(rows[first : first + len(part)] < 0) + first).tolist()
        if missing:
            self._reject([keys[i] for i in missing[:3]], len(missing))
        return rows

    def _consecutive(self, wanted: list[bytes]) -> np.ndarray | None:
        """The rows of keys that follow each other in the index, as most datasets list them."""
        first = self._bisect(wanted[0], 0, len(self))
        start = self._end_at[first - 1] if first else 0
        rows = np.arange(first, first + len(wanted))
        ends = np.cumsum(np.fromiter(map(len, wanted), np.int64, len(wanted))) + start
        same = np.array_equal(self._ends[first : first + len(wanted)], ends)
        return rows if same and self._text_bytes[start : ends[-1]] == b"".join(wanted) else None

    def _found(self, wanted: list[bytes]) -> np.ndarray:
        """The rows of keys in any order; -1 for those that the index does not have."""
        rows = np.full(len(wanted), -1, np.int64)
        count, row = len(self), 0
        for position in sorted(range(len(wanted)), key=wanted.__getitem__):
            key = wanted[position]
            if row == count or self.encoded(row) != key:  # not the next one
                row = self._first_from(max(row - 1, 0), key)
                if row == count or self.encoded(row) != key:
                    continue
            rows[position] = row
            row += 1
        return rows

    def take(self, rows: np.ndarray) -> KeyIndex:
        """Return the index of some images.

        Args:
            rows: int64 ``[n]``, ascending.
        """
        chosen = np.zeros(len(self), bool)
        chosen[rows] = True
        lengths = np.diff(self._ends, prepend=0)
        text = self._text[np.repeat(chosen, lengths)]
        return KeyIndex(text, np.cumsum(lengths[chosen], dtype=np.int64))

    def row(self, key: str) -> int:
        """Return the row number of one key, by binary search; see `rows` for bulk look-ups."""
        row = self._search(key)
        if row is None:
            self._reject([key], 1)
        return row

    def _search(self, key: str) -> int | None:
        wanted = key.encode(errors="surrogatepass")
        row = self._bisect(wanted, 0, len(self))
        return row if row < len(self) and self.encoded(row) == wanted else None

    def _first_from(self, low: int, wanted: bytes) -> int:
        """The first row at or after `low` whose key is at least `wanted`; fast if it is near."""
        high, step = low, 1
        while high < len(self) and self.encoded(high) < wanted:
            low, high, step = high + 1, high + step, 2 * step
        return self._bisect(wanted, low, min(high, len(self)))

    def _bisect(self, wanted: bytes, low: int, high: int) -> int:
        return bisect.bisect_left(range(high), wanted, low, high, key=self.encoded)

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
            f"{', ...' if count > len(examples) else ''}. The shard set has {len(self)} images"
            f"{here}. Point to the image root that was reinforced (keys are paths relative to it), "
            f"or reinforce these images."
        )

    def __repr__(self) -> str:
        return f"KeyIndex({len(self)} images)"


def _rises(ends: np.ndarray) -> bool:
    """Whether all values are larger than the ones before, and than 0; in parts, to save memory."""
    parts = (ends[max(start - 1, 0) : start + _CHUNK] for start in range(0, len(ends), _CHUNK))
    return not len(ends) or bool(ends[0] > 0 and all((p[1:] > p[:-1]).all() for p in parts))


def united(indices: Sequence[KeyIndex], names: Sequence[object]) -> tuple[KeyIndex, np.ndarray]:
    """Merge indices without a Python object per key.

    Args:
        indices: At most 65,536.
        names: What messages call them.

    Returns:
        The index of all keys, and uint16 ``[keys]``, the number of each key's index.

    Raises:
        SettingsMismatchError: A key is in two of them.
    """
    text, ends, owners = bytearray(), array("q"), array("H")
    previous, before = b"", 0
    for key, number in heapq.merge(*map(_numbered, indices, range(len(indices)))):
        if key == previous:
            raise SettingsMismatchError(
                f"{names[before]} and {names[number]} share some of their images, such as "
                f"{quoted(key.decode(errors='replace'))}, but not all: they have "
                f"{len(indices[before])} and {len(indices[number])}. Merge the parts of one first, "
                f"or take the same images of both (dr-plugins subset --keys)."
            )
        text += key
        ends.append(len(text))
        owners.append(number)
        previous, before = key, number
    index = KeyIndex(np.frombuffer(text, np.uint8), np.frombuffer(ends, np.int64))
    return index, np.frombuffer(owners, np.uint16)


def _numbered(index: KeyIndex, number: int) -> Iterator[tuple[bytes, int]]:
    return ((index.encoded(row), number) for row in range(len(index)))
