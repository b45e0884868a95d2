"""What the page shows of a shard set, as plain data for JSON."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch

from dr_plugins.explorer.confusion import confused_images, worst_matrix, worst_pairs
from dr_plugins.explorer.selection import Query, Selector
from dr_plugins.explorer.summary import about
from dr_plugins.explorer.views import describe_views
from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.shards.reader import ShardSet
from dr_plugins.statistics import ImageStatistics, average_answers
from dr_plugins.statistics.numbers import NUMBERS
from dr_plugins.targets import SparseTargets

HISTOGRAMS = ("confidence", "entropy")
BINS = 40
SHOWN = 10
"""Classes of an answer that are shown."""


class Catalog:
    """The images of a shard set with their numbers, answers and views, without pixels.

    Args:
        shards: The shard set.
        statistics: Its numbers, from `open_statistics`.

    Example:
        >>> shards = ShardSet("imagenet-plus")                              # doctest: +SKIP
        >>> catalog = Catalog(shards, open_statistics(shards))              # doctest: +SKIP
        >>> catalog.image(0)["average"][0]                                  # doctest: +SKIP
        (0, 0.91357)
    """

    def __init__(self, shards: ShardSet, statistics: ImageStatistics) -> None:
        self.shards = shards
        self.statistics = statistics
        self.policy = stored_policy(shards)
        self._selector = Selector(statistics, shards.keys)

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes; their numbers if the set does not store them."""
        names = self.shards.manifest.settings["class_names"]
        return names or [str(number) for number in range(self.shards.manifest.num_classes)]

    @cached_property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The (least, most) that each number can be, or the most that occurs."""
        classes = self.shards.manifest.num_classes
        return {
            name: (0.0, number.most(classes) if number.most else self._largest(name))
            for name, number in NUMBERS.items()
        }

    def _largest(self, name: str) -> float:
        return float(np.fmax.reduce(getattr(self.statistics, name), initial=0.0)) or 1.0

    @cached_property
    def overview(self) -> dict[str, Any]:
        """What every page needs: classes, histograms and confusion of all images."""
        manifest = self.shards.manifest
        confusion = confused_images(self.statistics)
        return {
            "title": self.shards.location.name,
            "images": len(self.shards),
            "samples": manifest.samples,
            "topk": manifest.topk,
            "view_size": self.policy.view_size,
            "numbers": {
                name: {"name": n.title, "short": n.short, "hint": n.meaning, "digits": n.digits}
                for name, n in NUMBERS.items()
            },
            "ranges": self.ranges,
            "histograms": self._histograms(slice(None)),
            "classes": self._classes(),
            "pairs": worst_pairs(confusion),
            "matrix": worst_matrix(confusion, manifest.num_classes),
            "about": about(self.shards, self.policy),
        }

    def page(self, query: Query) -> dict[str, Any]:
        """Return the images of one page, and the histograms of all that match."""
        rows = self._selector.rows(query)
        shown = rows[query.offset : query.offset + query.limit]
        return {
            "total": len(rows),
            "offset": query.offset,
            "images": [self.numbers(int(row)) for row in shown],
            "histograms": self._histograms(rows),
        }

    def numbers(self, row: int) -> dict[str, Any]:
        """Return an image's key, label, numbers and most probable classes."""
        s = self.statistics
        return {
            "row": row,
            "key": self.shards.keys[row],
            "label": int(s.label[row]),
            **{name: _number(getattr(s, name)[row]) for name in NUMBERS},
            "top": _answer(s.top_classes[row], s.top_probs[row]),
        }

    def image(self, row: int) -> dict[str, Any]:
        """Return an image's numbers, its averaged answer, and the answer to each view.

        Raises:
            IndexError: The row is out of range.
            FormatError: A record is damaged.
        """
        manifest = self.shards.manifest
        samples = manifest.samples
        records = self.shards.read(np.full(samples, row), np.arange(samples))
        info = self.shards.image(row)
        answers = SparseTargets.unchecked(
            torch.from_numpy(records["ids"].astype(np.int64)),
            torch.from_numpy(records["probs"].astype(np.float32)),
            torch.full((samples,), info.label),
            manifest.num_classes,
        )
        probs, _ = answers.normalized()
        classes, means = average_answers(self.shards, np.array([row]))
        views = describe_views(self.policy, records, info.size)
        for view, ids, values in zip(views, records["ids"], probs.numpy(), strict=True):
            view["top"] = _answer(ids[:SHOWN], values[:SHOWN])
            if view["partner"] is not None:
                view["partner_key"] = self.shards.keys[view["partner"]]
        return {
            **self.numbers(row),
            "size": info.size,
            "average": _answer(classes[0][:SHOWN], means[0][:SHOWN]),
            "views": views,
        }

    def _classes(self) -> list[dict[str, Any]]:
        """Each class with its number of images and their mean numbers."""
        label, count = self.statistics.label, self.shards.manifest.num_classes
        known = label >= 0
        images = np.bincount(label[known], minlength=count)
        means = {}
        for name in NUMBERS:
            total = np.bincount(label[known], getattr(self.statistics, name)[known], count)
            with np.errstate(invalid="ignore"):  # a class without images has no mean
                means[name] = total / images
        return [
            {
                "name": name,
                "images": int(images[c]),
                **{number: _number(mean[c]) for number, mean in means.items()},
            }
            for c, name in enumerate(self.class_names)
        ]

    def _histograms(self, rows: np.ndarray | slice) -> dict[str, list[int]]:
        return {
            name: _histogram(getattr(self.statistics, name)[rows], self.ranges[name][1])
            for name in HISTOGRAMS
        }


def _histogram(values: np.ndarray, most: float) -> list[int]:
    """Counts of `BINS` bins of equal width from 0 to `most`."""
    bins = (values.astype(np.float64) * (BINS / most)).astype(np.int64).clip(0, BINS - 1)
    return np.bincount(bins, minlength=BINS).tolist()


def _answer(classes: np.ndarray, probs: np.ndarray) -> list[tuple[int, float]]:
    """The classes of an answer with their probabilities, without padding."""
    pairs = zip(classes.tolist(), probs.tolist(), strict=True)
    return [(number, round(prob, 5)) for number, prob in pairs if number >= 0]


def _number(value: float) -> float | None:
    """A number for JSON, which knows no NaN, with the fewest digits that give the same float32."""
    return None if math.isnan(value) else float(str(np.float32(value)))
