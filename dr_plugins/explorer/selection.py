"""Which images of a set a page shows, and in which order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.statistics import ImageStatistics

NUMBERS = ("confidence", "entropy", "spread", "agreement", "label_prob")
"""Fields of `ImageStatistics` that images are filtered and sorted by."""

_MOST_IMAGES = 500  # of one page
_KEPT = 16  # selections; a user who turns pages needs one


@dataclass(frozen=True)
class Query:
    """Conditions that images must meet, their order, and the part that is shown.

    Attributes:
        label: Only images with this label; None for all.
        predicted: Only images whose averaged answer is this class; None for all.
        search: Only images whose key contains this text.
        ranges: (name, least, most) of `NUMBERS`; an image without the number is not in any range.
        sort: One of `NUMBERS`, or ``"key"``.
        descending: Largest first; images without the number are last in both orders.
        offset: Number of images before the first one shown.
        limit: Number of images shown.
    """

    label: int | None = None
    predicted: int | None = None
    search: str = ""
    ranges: tuple[tuple[str, float, float], ...] = ()
    sort: str = "key"
    descending: bool = False
    offset: int = 0
    limit: int = 48

    @classmethod
    def parse(cls, params: Mapping[str, str]) -> Query:
        """Read a query from the parameters of an address.

        Ranges are ``NAME=LEAST,MOST``; either bound may be empty.

        Raises:
            ValueError: A parameter has no valid value.

        Example:
            >>> Query.parse({"label": "3", "entropy": "1.5,", "sort": "entropy"}).ranges
            (('entropy', 1.5, inf),)
        """
        sort = params.get("sort") or "key"
        if sort not in (*NUMBERS, "key"):
            raise ValueError(f"sort is {sort!r}, expected one of {', '.join(NUMBERS)}, key")
        ranges = tuple(_range(name, params[name]) for name in NUMBERS if params.get(name))
        return cls(
            _count("label", params),
            _count("predicted", params),
            params.get("search", ""),
            ranges,
            sort,
            params.get("order") == "descending",
            _count("offset", params) or 0,
            min(_count("limit", params) or cls.limit, _MOST_IMAGES),
        )


def _count(name: str, params: Mapping[str, str]) -> int | None:
    text = params.get(name, "")
    if not text:
        return None
    if not text.isdecimal() or len(text) > 10:
        raise ValueError(f"{name} is {text!r}, expected a number of at least 0")
    return int(text)


def _range(name: str, text: str) -> tuple[str, float, float]:
    least, _, most = text.partition(",")
    try:
        bounds = float(least or -math.inf), float(most or math.inf)
    except ValueError:
        bounds = math.nan, math.nan
    if any(map(math.isnan, bounds)):
        raise ValueError(f"{name} is {text!r}, expected LEAST,MOST")
    return name, *bounds


class Selector:
    """Filters and sorts the images of a set.

    Each order is computed once; what remains for a page is a scan of the columns that are filtered.

    Args:
        statistics: The numbers of each image.
        keys: The set's keys, in the same order.
    """

    def __init__(self, statistics: ImageStatistics, keys: KeyIndex) -> None:
        self.statistics = statistics
        self._keys = keys
        self._rows = lru_cache(_KEPT)(self._select)
        self._orders = lru_cache(None)(self._order)

    def rows(self, query: Query) -> np.ndarray:
        """Return the rows of all images that meet the conditions, in order: int64 ``[matches]``."""
        return self._rows(replace(query, offset=0, limit=0))

    def _select(self, query: Query) -> np.ndarray:
        matches = self._matches(query)
        if query.sort == "key":
            rows = np.flatnonzero(matches)
            return rows[::-1] if query.descending else rows
        order = self._orders(query.sort, query.descending)
        return order[matches[order]]

    def _matches(self, query: Query) -> np.ndarray:
        matches = np.ones(len(self.statistics.label), bool)
        if query.label is not None:
            matches &= self.statistics.label == query.label
        if query.predicted is not None:
            matches &= self.statistics.top_classes[:, 0] == query.predicted
        for name, least, most in query.ranges:
            values = getattr(self.statistics, name)
            matches &= (values >= least) & (values <= most)
        if query.search:
            found = np.zeros(len(matches), bool)
            found[self._keys.containing(query.search)] = True
            matches &= found
        return matches

    def _order(self, name: str, descending: bool) -> np.ndarray:
        """All rows in the order of a number; equal ones by row, those without it last."""
        values = getattr(self.statistics, name)
        return np.argsort(-values if descending else values, kind="stable")
