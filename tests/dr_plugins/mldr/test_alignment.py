from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dr_plugins.mldr.alignment import Alignment
from dr_plugins.mldr.errors import AlignmentError
from dr_plugins.mldr.worker import Prediction, mean_prediction


def predictions(hits: int, misses: int, set_number: int = 0) -> list[Prediction]:
    return [Prediction(set_number, 0, 3, 3)] * hits + [Prediction(set_number, 0, 3, 4)] * misses


def test_a_wrong_order_is_noticed_early() -> None:
    alignment = Alignment(["a", "b"], 0.5)
    alignment.add(predictions(0, 1999))
    with pytest.raises(AlignmentError, match=r"^a: .*0\.0% of 2,000 images"):
        alignment.add(predictions(0, 1))


@pytest.mark.parametrize(("hits", "fits"), [(50, True), (49, False)])
def test_the_threshold(hits: int, fits: bool) -> None:
    alignment = Alignment(["a", "b"], 0.5)
    alignment.add(
        [
            *predictions(100, 0),
            *predictions(hits, 100 - hits, 1),
            Prediction(1, 0, -1, 4),
        ]
    )
    if fits:
        assert [found and found.share for found in alignment.finish()] == [1.0, 0.5]
    else:
        with pytest.raises(AlignmentError, match=r"^b: "):
            alignment.finish()


def test_predictions_are_averaged_over_the_reinforcements() -> None:
    records: Any = np.zeros(3, [("ids", "<u2", (2,)), ("probs", "<f2", (2,))])
    records["ids"] = [[5, 2], [2, 9], [7, 2]]
    records["probs"] = [[0.6, 0.4], [0.5, 0.1], [0.6, 0.3]]  # class 2: 1.2 of 3
    assert mean_prediction(records) == 2


def predicted(table: dict[int, list[int]]) -> list[Prediction]:
    return [Prediction(0, 0, label, one) for label, row in table.items() for one in row]


def right(classes: int, images: int) -> dict[int, list[int]]:
    return {label: [label] * images for label in range(classes)}


@pytest.mark.parametrize(
    ("classes", "images", "changed"),
    [
        (1000, 13, {3: [8] * 13, 8: [3] * 13}),
        (102, 10, {3: [8] * 10, 8: [3] * 10}),
        (102, 10, {0: [1] * 10, 1: [2] * 10, 2: [0] * 10}),
        (10, 100, {0: [1] * 60 + [0] * 20 + [7] * 20, 1: [0] * 60 + [1] * 40}),
        (100, 20, {label: [(label + 1) % 40] * 20 for label in range(40)}),
    ],
)
def test_exchanged_classes_are_noticed(classes: int, images: int, changed: Any) -> None:
    alignment = Alignment(["a"], 0.5)
    alignment.add(predicted(right(classes, images) | changed))
    with pytest.raises(AlignmentError, match="swapped"):
        alignment.finish()
    accepting = Alignment(["a"], 0.0)
    accepting.add(predicted(right(classes, images) | changed))
    (found,) = accepting.finish()
    assert found is not None
    worst = min(found.classes, key=lambda one: one.agreeing / one.images)
    assert (worst.label, worst.mode) == (0 if 0 in changed else 3, changed[worst.label][0])


@pytest.mark.parametrize(
    ("classes", "images", "changed"),
    [
        (1000, 2, {3: [8] * 2, 8: [3] * 2}),  # too few to be sure
        (10, 1, {3: [8], 8: [3]}),
        (1000, 500, {3: [8] * 500}),  # a teacher that does not know a class
        (10, 100, {0: [1] * 51 + [0] * 49, 1: [0] * 51 + [1] * 49}),  # nor two of them apart
        (10, 100, {0: [1] * 50 + [0] * 50, 1: [0] * 50 + [1] * 50}),
    ],
)
def test_weak_classes_are_no_error(classes: int, images: int, changed: Any) -> None:
    alignment = Alignment(["a"], 0.5)
    alignment.add(predicted(right(classes, images) | changed))
    (found,) = alignment.finish()
    assert found is not None
    assert len(found.classes) == classes


@pytest.mark.slow
def test_weak_teachers_in_the_right_order_raise_no_alarm() -> None:
    """Of 200 teachers that confuse pairs of classes at random, at most a few are rejected."""
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(200):
        table = {c: (c ^ rng.integers(0, 2, 12)).tolist() for c in range(100)}
        alignment = Alignment(["a"], 0.01)
        alignment.add(predicted(table))
        try:
            alignment.finish()
        except AlignmentError:
            alarms += 1
    assert alarms <= 2 + 3
