"""SIGINT and SIGTERM of a stream: a handler sets a flag, and a thread asks the source to end.

A handler runs between any two steps of the main thread. What it wrote to a disk or an object store could
fail or wait there, and the error would come out of whatever the main thread was doing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from pipelines.sources.reader import ask_to_stop
from pipelines.storage import Location

_LOOKED_EVERY_S: Final = 0.1
_AGAIN_AFTER_S: Final = 2.0  # where the disk or the store refused


@contextmanager
def ending_cleanly(stop_file: Location) -> Iterator[None]:
    """Have SIGINT and SIGTERM put a stop file while the block runs; a second one gets its usual meaning."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    asked: list[int] = []  # no event: its lock could be held by the very code that the signal came into
    ended = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    def put() -> None:
        wait_s = _LOOKED_EVERY_S
        while not ended.wait(wait_s):
            if asked:
                try:
                    ask_to_stop(stop_file)
                    return
                except OSError:
                    wait_s = _AGAIN_AFTER_S

    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        if signal.getsignal(number) != signal.SIG_IGN:  # a script's background job stays one
            before[number] = signal.signal(number, stop)
    thread = threading.Thread(target=put, name="stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        ended.set()
        thread.join()
