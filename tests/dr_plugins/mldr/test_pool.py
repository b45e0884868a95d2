from __future__ import annotations

import os

import pytest

from dr_plugins.errors import ReinforcementError
from dr_plugins.mldr.errors import ArchiveError
from dr_plugins.mldr.pool import WorkerPool


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
    with WorkerPool(_Worker(), processes) as pool:
        for number in range(40):
            pool.submit("square", number)
            found.extend(pool.ready())
        found.extend(pool.drain())
        pool.submit("square", 2)
        for result in pool.drain():
            found.append(result)
            if result == 4:  # work that follows from a result
                pool.submit("square", 100)
    assert sorted(found) == sorted([n * n for n in range(40)] + [4, 10_000])


@pytest.mark.parametrize("processes", [0, 1])
def test_errors_arrive_as_they_are(processes: int) -> None:
    def run() -> None:
        with WorkerPool(_Worker(), processes) as pool:
            pool.submit("fail")
            list(pool.drain())

    with pytest.raises(ArchiveError, match="member '7': damaged"):
        run()


def test_a_killed_worker_is_an_error() -> None:
    def run() -> None:
        with WorkerPool(_Worker(), 1) as pool:
            pool.submit("die")
            list(pool.drain())

    with pytest.raises(ReinforcementError, match="was killed"):
        run()
