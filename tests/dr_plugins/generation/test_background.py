from __future__ import annotations

import threading

import pytest

from dr_plugins.generation.background import Background


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_calls_are_made_in_order_by_another_thread(depth: int) -> None:
    made: list[tuple[int, bool]] = []
    here = threading.get_ident()
    with Background(depth) as background:
        for i in range(20):
            background.call(lambda i: made.append((i, threading.get_ident() == here)), i)
    assert made == [(i, False) for i in range(20)]


def test_without_depth_each_call_is_waited_for() -> None:
    made: list[int] = []
    with Background(0) as background:
        for i in range(5):
            background.call(made.append, i)
            assert made == list(range(i + 1))


def test_the_caller_waits_when_too_many_calls_are_unfinished() -> None:
    gate, returned, made = threading.Event(), threading.Event(), []

    def caller() -> None:
        with Background(2) as background:
            for i in range(2):
                background.call(lambda i: gate.wait() and made.append(i), i)
            returned.set()
            background.call(made.append, 2)
            made.append("third call returned")

    thread = threading.Thread(target=caller)
    thread.start()
    assert returned.wait(30)  # two calls are unfinished, and the caller goes on
    assert made == []
    gate.set()
    thread.join(30)
    assert made[0] == 0
    assert made.index("third call returned") > made.index(0)
    assert [m for m in made if m != "third call returned"] == [0, 1, 2]


@pytest.mark.parametrize("depth", [0, 1, 2, 10])
def test_an_error_reaches_the_caller_and_stops_all_that_follows(depth: int) -> None:
    made: list[int] = []

    def fails(i: int) -> None:
        if i == 2:
            raise ZeroDivisionError(i)
        made.append(i)

    def run() -> None:
        with Background(depth) as background:
            for i in range(8):
                background.call(fails, i)

    with pytest.raises(ZeroDivisionError, match="2"):
        run()
    assert made == [0, 1]


def test_the_callers_own_error_comes_after_all_calls() -> None:
    made: list[int] = []
    gate = threading.Event()

    def run() -> None:
        with Background(3) as background:
            for i in range(3):
                background.call(lambda i: gate.wait() and made.append(i), i)
            threading.Timer(0, gate.set).start()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run()
    assert made == [0, 1, 2]
