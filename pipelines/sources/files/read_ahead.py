"""Read ahead: a thread parses the next rows of a file while earlier rows are validated."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Final, TypeVar

T = TypeVar("T")

_MOST_PIECES: Final = 2
# While the queue is full, the reading thread checks this often whether the caller closed the iterator.
_CHECK_EVERY_S: Final = 0.2


def ahead(work: Generator[T, None, None]) -> Iterator[T]:
    """Run the generator ``work`` in another thread, ahead of the caller, and yield its items.

    This saves time if the work releases Python's global lock, as Arrow and Polars do.

    Raises:
        BaseException: ``work`` raised this exception; the items before it are yielded first.
    """
    made: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(_MOST_PIECES)
    given_up = threading.Event()

    def give(item: T | None, error: BaseException | None, is_last: bool) -> None:
        while not given_up.is_set():
            with suppress(queue.Full):
                made.put((item, error, is_last), timeout=_CHECK_EVERY_S)
                return

    def run() -> None:
        try:
            for item in work:
                give(item, None, False)
                if given_up.is_set():
                    return
            give(None, None, True)
        except BaseException as error:
            give(None, error, True)
        finally:
            work.close()

    thread = threading.Thread(target=run, name="reading ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error, is_last = made.get()
            if error is not None:
                raise error
            if is_last:
                return
            yield item  # type: ignore[misc]
    finally:
        given_up.set()
        thread.join()
