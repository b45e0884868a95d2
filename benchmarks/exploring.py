"""What the page of `dr-plugins explore` asks for, on a set of ImageNet-1k's size.

Seconds with a limit are of processor time, which other programs on the machine do not change; each
answer is computed by one thread.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.keys import CLASSES, make_large_set
from benchmarks.report import Limit, Row, compare, report
from dr_plugins.explorer.catalog import Catalog
from dr_plugins.explorer.selection import NUMBERS, Query
from dr_plugins.shards.reader import ShardSet
from dr_plugins.statistics import Confusion, ImageStatistics

IMAGES = 1_281_167
LIMIT = 0.2  # seconds that feel immediate
QUESTIONS = {
    "all images": {},
    "one class, sorted": {"label": "7", "sort": "label_prob"},
    "all, sorted": {"sort": "entropy", "order": "descending"},
    "three ranges, sorted": {
        "confidence": "0.2,0.9",
        "spread": "0.1,",
        "agreement": ",0.8",
        "sort": "label_prob",
    },
    "a name, sorted": {"search": "77", "sort": "confidence"},
}


def main(out: Path, images: int = IMAGES) -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as folder:
        make_large_set(Path(folder), images)
        catalog = Catalog(ShardSet(folder), synthetic_statistics(images))
        rows: list[Row | Limit] = [_overview(catalog)]
        rows += [_page(catalog, what, params) for what, params in QUESTIONS.items()]
        rows.append(_against_pandas(catalog))
    report(f"Answers of the page, {images:,} images", rows, out / "exploring.json")


def synthetic_statistics(images: int) -> ImageStatistics:
    """Random numbers; three quarters of the labels are the most probable class."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, images, np.int32)
    top = rng.integers(0, CLASSES, (images, 5), np.int32)
    agrees = rng.random(images) < 0.75
    top[agrees, 0] = label[agrees]
    return ImageStatistics(
        label=label,
        **{name: rng.random(images, np.float32) for name in NUMBERS},
        mixed=np.zeros(images, bool),
        top_classes=top,
        top_probs=np.full((images, 5), 0.2, np.float32),
        confusion=Confusion.of(label, top[:, 0]),
    )


def _overview(catalog: Catalog) -> Limit:
    start = time.process_time()
    json.dumps(catalog.overview)
    return Limit("classes, histograms and confusion, once", "s", time.process_time() - start, 1)


def _page(catalog: Catalog, what: str, params: dict[str, str]) -> Limit:
    seconds = []
    for offset in (0, 0, 48):  # the second time the selection is known
        start = time.process_time()
        json.dumps(catalog.page(Query.parse({**params, "offset": str(offset)})))
        seconds.append(time.process_time() - start)
    return Limit(what, "s", max(seconds), LIMIT)


def _against_pandas(catalog: Catalog) -> Row:
    """Filter, sort and show a page; each time with another bound, so nothing is remembered."""
    table = pd.DataFrame({name: getattr(catalog.statistics, name) for name in NUMBERS})
    ours_bound, their_bound = itertools.count(), itertools.count()
    shown: dict[str, list[int]] = {}

    def ours() -> int:
        least = next(ours_bound) / 1000
        ranges = (("confidence", least, 0.9), ("spread", 0.1, 1.0))
        page = catalog.page(Query(ranges=ranges, sort="entropy"))
        shown["ours"] = [image["row"] for image in page["images"]]
        return 1

    def theirs() -> int:
        least = next(their_bound) / 1000
        found = table[table["confidence"].between(least, 0.9) & table["spread"].between(0.1, 1)]
        first = found.sort_values("entropy", kind="stable").head(48)
        shown["theirs"] = first.index.tolist()
        return 1

    seconds, other, ratio = compare(ours, theirs)
    assert shown["ours"] == shown["theirs"]
    return Row("two ranges, sorted, a page", "pandas", "s", seconds, other, ratio, 1.0)
