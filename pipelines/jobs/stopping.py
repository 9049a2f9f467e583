"""End a stream cleanly on SIGINT and SIGTERM: the handler sets a flag, and a thread writes the stop file.

The handler itself must not write the file. Python runs the handler between any two steps of the main thread.
So a failed or slow write would raise its error in unrelated code, or delay this code.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from pipelines.sources.reader import request_stop
from pipelines.storage import Location

_CHECK_EVERY_S: Final = 0.1
_RETRY_AFTER_S: Final = 2.0  # pause before another try to write the stop file


@contextmanager
def stop_on_signal(stop_file: Location) -> Iterator[None]:
    """Write ``stop_file`` at the first SIGINT or SIGTERM in the block; the same signal again acts as usual.

    Outside the main thread, this does nothing, because Python allows no signal handlers there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    # This is a list and not an Event: a signal may interrupt code that holds the lock of an Event.
    received: list[int] = []
    ended = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number])

    def write_stop_file() -> None:
        wait_s = _CHECK_EVERY_S
        while not ended.wait(wait_s):
            if received:
                try:
                    request_stop(stop_file)
                    return
                except OSError:
                    wait_s = _RETRY_AFTER_S

    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        # Install no handler for an ignored signal: a shell makes its background jobs ignore SIGINT.
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, stop)
    thread = threading.Thread(target=write_stop_file, name="stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        ended.set()
        thread.join()
