from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from pipelines.workers.worker_thread import Lane
from schemas.errors import OutputError

PATIENCE_S = 30.0


@pytest.fixture
def lane() -> Iterator[Lane]:
    made = Lane("of a test")
    yield made
    with suppress(OutputError):
        made.close()


def fail() -> None:
    raise OutputError("the disk is full")


def once(free: threading.Event, then: Callable[[], None]) -> Callable[[], None]:
    """Work that waits until it is free to go on."""

    def work() -> None:
        assert free.wait(PATIENCE_S)
        then()

    return work


def test_a_lane_does_one_thing_after_the_other_in_a_thread_of_its_own(lane: Lane) -> None:
    done: list[tuple[int, str]] = []
    for number in range(100):
        lane.put(lambda number=number: done.append((number, threading.current_thread().name)))  # type: ignore[misc]
    lane.wait()
    assert done == [(number, "of a test") for number in range(100)]


def test_what_goes_wrong_reaches_whoever_waits_and_whoever_goes_on(lane: Lane) -> None:
    done: list[str] = []
    lane.put(lambda: done.append("before"))
    begun = threading.Event()
    lane.put(once(begun, fail))
    lane.put(lambda: done.append("after"))
    begun.set()
    for _ in range(2):
        with pytest.raises(OutputError, match="the disk is full"):
            lane.wait()
    with pytest.raises(OutputError, match="the disk is full"):
        lane.put(lambda: done.append("later"))
    assert done == ["before"]


def test_a_lane_that_is_full_has_its_source_wait() -> None:
    narrow, free = Lane("narrow", 2), threading.Event()
    done: list[int] = []
    narrow.put(once(free, lambda: done.append(0)))

    def fill() -> None:
        for number in range(1, 6):
            narrow.put(lambda number=number: done.append(number))  # type: ignore[misc]

    filling = threading.Thread(target=fill)
    filling.start()
    filling.join(0.2)
    assert filling.is_alive()
    assert done == []
    free.set()
    filling.join(PATIENCE_S)
    narrow.close()
    assert done == list(range(6))


def test_what_is_offered_to_a_full_lane_is_not_done_and_nobody_waits() -> None:
    narrow, begun, free = Lane("narrow", 1), threading.Event(), threading.Event()
    done: list[int] = []

    def first() -> None:
        begun.set()
        once(free, lambda: done.append(0))()

    narrow.put(first)
    assert begun.wait(PATIENCE_S)
    assert narrow.offer(lambda: done.append(1))
    assert not narrow.offer(lambda: done.append(2))
    free.set()
    narrow.close()
    assert done == [0, 1]


def test_a_lane_that_is_abandoned_ends_what_it_is_at_and_nothing_more(lane: Lane) -> None:
    begun, free = threading.Event(), threading.Event()
    done: list[str] = []

    def this() -> None:
        begun.set()
        once(free, lambda: done.append("this"))()

    lane.put(this)
    lane.put(lambda: done.append("that"))
    assert begun.wait(PATIENCE_S)
    lane.abandon()
    free.set()
    lane.wait()
    assert done == ["this"]
