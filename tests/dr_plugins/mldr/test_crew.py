from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from dr_plugins.errors import ReinforcementError
from dr_plugins.mldr.alignment import Alignment
from dr_plugins.mldr.crew import Crew
from dr_plugins.mldr.errors import AlignmentError, ArchiveError
from dr_plugins.mldr.worker import Vote, agreement


class _Worker:
    def square(self, number: int) -> int:
        return number * number

    def fail(self) -> None:
        raise ArchiveError("a.tar.gz, member '7': damaged")

    def die(self) -> None:
        os._exit(1)


@pytest.mark.parametrize("processes", [0, 2])
def test_all_results_come_out_once(processes: int) -> None:
    found: list[int] = []
    with Crew(_Worker(), processes) as crew:
        for number in range(40):
            crew.submit("square", number)
            found.extend(crew.ready())
        found.extend(crew.drain())
        crew.submit("square", 2)
        for result in crew.drain():
            found.append(result)
            if result == 4:  # work that follows from a result
                crew.submit("square", 100)
    assert sorted(found) == sorted([n * n for n in range(40)] + [4, 10_000])


@pytest.mark.parametrize("processes", [0, 1])
def test_errors_arrive_as_they_are(processes: int) -> None:
    def run() -> None:
        with Crew(_Worker(), processes) as crew:
            crew.submit("fail")
            list(crew.drain())

    with pytest.raises(ArchiveError, match="member '7': damaged"):
        run()


def test_a_killed_worker_is_an_error() -> None:
    def run() -> None:
        with Crew(_Worker(), 1) as crew:
            crew.submit("die")
            list(crew.drain())

    with pytest.raises(ReinforcementError, match="was killed"):
        run()


def votes(hits: int, misses: int, part: int = 0) -> list[Vote]:
    return [Vote(part, 0, True)] * hits + [Vote(part, 0, False)] * misses


def test_a_wrong_order_is_noticed_early() -> None:
    alignment = Alignment(["a", "b"], 0.5)
    alignment.add(votes(0, 1999))
    with pytest.raises(AlignmentError, match=r"^a: .*0\.0% of 2,000 images"):
        alignment.add(votes(0, 1))


@pytest.mark.parametrize(("hits", "fits"), [(50, True), (49, False)])
def test_the_threshold(hits: int, fits: bool) -> None:
    alignment = Alignment(["a", "b"], 0.5)
    alignment.add([*votes(100, 0), *votes(hits, 100 - hits, part=1), Vote(1, 0, None)])
    if fits:
        assert alignment.finish() == [1.0, 0.5]
    else:
        with pytest.raises(AlignmentError, match=r"^b: "):
            alignment.finish()


def test_agreement_averages_over_the_reinforcements() -> None:
    records: Any = np.zeros(3, [("ids", "<u2", (2,)), ("probs", "<f2", (2,))])
    records["ids"] = [[5, 2], [2, 9], [7, 2]]
    records["probs"] = [[0.6, 0.4], [0.5, 0.1], [0.6, 0.3]]  # class 2: 1.2 of 3
    assert agreement(records, 2) is True
    assert agreement(records, 5) is False
    assert agreement(records, -1) is None
