"""Filters and orders, against a loop over all images."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dr_plugins.explorer.selection import Query, Selector
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.statistics import Confusion, ImageStatistics
from dr_plugins.statistics.numbers import NUMBERS

COUNT = 60


def synthetic(count: int = COUNT, num_classes: int = 4, seed: int = 0) -> ImageStatistics:
    """Numbers with ties; some images have no label."""
    rng = np.random.default_rng(seed)
    label = rng.integers(-1, num_classes, count, np.int32)
    numbers = {name: rng.integers(0, 8, count).astype(np.float32) / 8 for name in NUMBERS}
    for name in ("agreement", "label_prob"):
        numbers[name][label < 0] = np.nan
    top = np.argsort(rng.random((count, max(num_classes, 5))), 1)[:, :5].astype(np.int32)
    return ImageStatistics(
        label=label,
        **numbers,
        mixed=np.zeros(count, bool),
        top_classes=np.where(top < num_classes, top, 0).astype(np.int32),
        top_probs=np.full((count, 5), 0.2, np.float32),
        confusion=Confusion.of(np.zeros(1, np.int32), np.zeros(1, np.int32)),
    )


STATISTICS = synthetic()
KEYS = KeyIndex.build(f"n{i % 3}/{i:03d}.jpg" for i in range(COUNT))
BOUNDS = st.sampled_from([-math.inf, 0, 0.25, 0.5, 1, math.inf])


def slow(query: Query) -> list[int]:
    """The same by a loop."""
    found = []
    for row in range(COUNT):
        fits = query.label in (None, STATISTICS.label[row])
        fits &= query.predicted in (None, STATISTICS.top_classes[row, 0])
        fits &= query.search in KEYS[row]
        for name, least, most in query.ranges:
            fits &= bool(least <= getattr(STATISTICS, name)[row] <= most)
        if fits:
            found.append(row)
    if query.sort == "key":
        return found[::-1] if query.descending else found
    values = getattr(STATISTICS, query.sort).tolist()
    sign = -1 if query.descending else 1
    known = [row for row in found if not math.isnan(values[row])]
    unknown = [row for row in found if math.isnan(values[row])]
    return sorted(known, key=lambda row: (sign * values[row], row)) + unknown


@given(
    label=st.none() | st.integers(0, 4),
    predicted=st.none() | st.integers(0, 4),
    search=st.sampled_from(["", "n1", "1", "0.j", "jpgn", "pg", "n1/0", "x"]),
    ranges=st.lists(st.tuples(st.sampled_from(sorted(NUMBERS)), BOUNDS, BOUNDS), max_size=2),
    sort=st.sampled_from([*NUMBERS, "key"]),
    descending=st.booleans(),
)
def test_images_are_those_of_a_loop(
    ranges: list[tuple[str, float, float]], **values: object
) -> None:
    query = Query(ranges=tuple(ranges), **values)
    assert Selector(STATISTICS, KEYS).rows(query).tolist() == slow(query)


def test_a_query_from_an_address() -> None:
    given = {
        "label": "3",
        "predicted": "",
        "spread": ",0.5",
        "entropy": "1,2",
        "order": "descending",
    }
    given |= {"sort": "entropy", "search": "a b", "offset": "96", "limit": "24"}
    ranges = (("entropy", 1.0, 2.0), ("spread", -math.inf, 0.5))
    assert Query.parse(given) == Query(3, None, "a b", ranges, "entropy", True, 96, 24)
    assert Query.parse({}) == Query()
    assert Query.parse({"limit": "100000"}).limit < 1000


@given(
    st.lists(st.text("ab/", min_size=1, max_size=4), min_size=1, max_size=12, unique=True),
    st.text("ab/", max_size=5),
)
def test_keys_that_contain_a_text(keys: list[str], text: str) -> None:
    index = KeyIndex.build(keys)
    assert index.containing(text).tolist() == [i for i, key in enumerate(index) if text in key]
