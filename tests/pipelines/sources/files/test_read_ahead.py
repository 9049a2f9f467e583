from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from pipelines.sources.files.read_ahead import ahead


def numbers(upto: int, closed: threading.Event, error: Exception | None = None) -> Generator[int, None, None]:
    try:
        yield from range(upto)
        if error is not None:
            raise error
    finally:
        closed.set()


def test_what_is_read_ahead_comes_in_its_order_and_ends() -> None:
    closed = threading.Event()
    assert list(ahead(numbers(100, closed))) == list(range(100))
    assert closed.is_set()


def test_an_error_comes_after_what_was_read_before_it() -> None:
    given = ahead(numbers(3, threading.Event(), OSError("the disk")))
    assert [next(given) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk"):
        next(given)


def test_who_takes_no_more_leaves_no_thread_and_no_open_file() -> None:
    closed, before = threading.Event(), threading.active_count()
    for number in ahead(numbers(1000, closed)):
        if number == 3:
            break
    assert closed.wait(30)
    assert threading.active_count() == before
