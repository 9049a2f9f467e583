from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipelines.process import SideBySide, cores


def endless(closed: threading.Event) -> Iterator[int]:
    """Ones, until it is closed."""
    try:
        while True:
            yield 1
    finally:
        closed.set()


def test_one_generator_gives_its_results_in_order() -> None:
    work: SideBySide[int] = SideBySide()
    work.start(iter(range(100)))
    assert list(work.results(until=0)) == list(range(100))


def test_nothing_is_lost_or_doubled_between_several() -> None:
    work: SideBySide[int] = SideBySide()
    for first in range(0, 1000, 100):
        work.start(iter(range(first, first + 100)))
    assert sorted(work.results(until=0)) == list(range(1000))


def test_they_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=10)

    def meet() -> Iterator[int]:
        yield meeting.wait()  # breaks where another does not come while this one waits

    work: SideBySide[int] = SideBySide()
    for _ in range(3):
        work.start(meet())
    assert sorted(work.results(until=0)) == [0, 1, 2]


def test_as_many_as_asked_for_are_left_running() -> None:
    go_on = threading.Event()

    def slow() -> Iterator[str]:
        go_on.wait(10)
        yield "slow"

    work: SideBySide[str] = SideBySide()
    work.start(slow())
    work.start(iter(["fast"]))
    assert list(work.results(until=1)) == ["fast"]
    go_on.set()
    assert list(work.results(until=0)) == ["slow"]


def test_what_one_raises_comes_out_and_ends_the_others() -> None:
    closed = threading.Event()

    def broken() -> Iterator[int]:
        yield 2
        raise ValueError("broken")

    work: SideBySide[int] = SideBySide()
    work.start(endless(closed))
    work.start(broken())
    with pytest.raises(ValueError, match="broken"):
        list(work.results(until=0))
    assert closed.wait(10)


def test_a_reader_that_goes_away_ends_them() -> None:
    closed = threading.Event()
    work: SideBySide[int] = SideBySide()
    work.start(endless(closed))
    results = work.results(until=0)
    assert next(results) == 1
    del results
    assert closed.wait(10)


def test_there_is_a_core() -> None:
    assert cores() >= 1
