"""Reading ahead: the next piece of a file is taken apart while the last one is being validated."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Final, TypeVar

T = TypeVar("T")

_PIECES: Final = 2
_LOOK_UP_S: Final = 0.2  # how long an iterator that nobody takes from any more does not see it


def ahead(work: Generator[T, None, None]) -> Iterator[T]:
    """What ``work`` gives, in its order, made in a thread of its own; it is closed in that thread.

    Worth it where the work is done outside Python's lock, as Arrow and Polars do theirs.

    Raises:
        BaseException: what ``work`` raises, after what it gave before.
    """
    made: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(_PIECES)
    given_up = threading.Event()

    def give(item: T | None, error: BaseException | None, is_last: bool) -> None:
        while not given_up.is_set():
            with suppress(queue.Full):
                made.put((item, error, is_last), timeout=_LOOK_UP_S)
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
