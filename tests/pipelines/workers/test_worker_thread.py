"""Tests of `WorkerThread`, which runs functions one after the other in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress

import pytest

from pipelines.workers.worker_thread import WorkerThread
from schemas.errors import OutputError

PATIENCE_S = 30.0


@pytest.fixture
def worker_thread() -> Iterator[WorkerThread]:
    made = WorkerThread("of a test")
    yield made
    with suppress(OutputError):
        made.close()


def raise_error() -> None:
    raise OutputError("the disk is full")


def wait_then(free: threading.Event, action: Callable[[], None]) -> Callable[[], None]:
    """Return a function that waits until ``free`` is set and then calls ``action``."""

    def work() -> None:
        assert free.wait(PATIENCE_S)
        action()

    return work


def test_a_worker_thread_runs_its_work_in_order(worker_thread: WorkerThread) -> None:
    done: list[tuple[int, str]] = []
    for number in range(100):
        worker_thread.put(lambda number=number: done.append((number, threading.current_thread().name)))  # type: ignore[misc]
    worker_thread.wait()
    assert done == [(number, "of a test") for number in range(100)]


def test_wait_and_put_raise_an_error_of_the_worker_thread(worker_thread: WorkerThread) -> None:
    done: list[str] = []
    worker_thread.put(lambda: done.append("before"))
    begun = threading.Event()
    worker_thread.put(wait_then(begun, raise_error))
    worker_thread.put(lambda: done.append("after"))
    begun.set()
    for _ in range(2):
        with pytest.raises(OutputError, match="the disk is full"):
            worker_thread.wait()
    with pytest.raises(OutputError, match="the disk is full"):
        worker_thread.put(lambda: done.append("later"))
    assert done == ["before"]


def test_put_waits_while_a_worker_thread_is_full() -> None:
    narrow, free = WorkerThread("narrow", 2), threading.Event()
    done: list[int] = []
    narrow.put(wait_then(free, lambda: done.append(0)))

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


def test_put_returns_a_future_with_the_result_of_the_work(worker_thread: WorkerThread) -> None:
    free = threading.Event()
    blocked = worker_thread.put(wait_then(free, lambda: None))
    result = worker_thread.put(lambda: 6 * 7)
    assert not result.done()
    free.set()
    assert result.result(PATIENCE_S) == 42
    assert blocked.done()


def test_a_task_after_a_failed_task_is_cancelled(worker_thread: WorkerThread) -> None:
    free = threading.Event()
    failed = worker_thread.put(wait_then(free, raise_error))
    skipped = worker_thread.put(lambda: 1)
    free.set()
    with pytest.raises(OutputError, match="the disk is full"):
        failed.result(PATIENCE_S)
    with pytest.raises(CancelledError):
        skipped.result(PATIENCE_S)


def test_an_abandoned_worker_thread_finishes_only_its_current_work(worker_thread: WorkerThread) -> None:
    begun, free = threading.Event(), threading.Event()
    done: list[str] = []

    def this() -> None:
        begun.set()
        wait_then(free, lambda: done.append("this"))()

    worker_thread.put(this)
    worker_thread.put(lambda: done.append("that"))
    assert begun.wait(PATIENCE_S)
    worker_thread.abandon()
    free.set()
    worker_thread.wait()
    assert done == ["this"]
    assert worker_thread.put(lambda: None).cancelled()
