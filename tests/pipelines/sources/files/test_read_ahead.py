"""Tests of `ahead`, which reads items in another thread before they are needed."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from pipelines.sources.files.read_ahead import ahead


def count_up(
    upto: int, closed: threading.Event, error: Exception | None = None
) -> Generator[int, None, None]:
    try:
        yield from range(upto)
        if error is not None:
            raise error
    finally:
        closed.set()


def test_read_ahead_yields_all_items_in_order() -> None:
    closed = threading.Event()
    assert list(ahead(count_up(100, closed))) == list(range(100))
    assert closed.is_set()


def test_reading_ahead_raises_an_error_after_the_earlier_items() -> None:
    items = ahead(count_up(3, threading.Event(), OSError("the disk")))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk"):
        next(items)


def test_breaking_out_of_ahead_ends_its_thread_and_generator() -> None:
    closed, before = threading.Event(), threading.active_count()
    for number in ahead(count_up(1000, closed)):
        if number == 3:
            break
    assert closed.wait(30)
    assert threading.active_count() == before
