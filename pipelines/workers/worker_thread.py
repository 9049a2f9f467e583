"""A thread with a queue before it: things are done in order, and whoever waits learns how they went."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress

_LOOK_UP_S = 0.2  # how long who waits for a lane does not see that it was abandoned


class WorkerThread:
    """A thread that does one thing after the other; what one raises, whoever waits is told.

    Args:
        name: of the thread.
        ahead: how many things may wait; 0 for any number.
    """

    def __init__(self, name: str, ahead: int = 0) -> None:
        self._todo: queue.Queue[Callable[[], None] | None] = queue.Queue(ahead)
        self._failed: BaseException | None = None
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, work: Callable[[], None]) -> None:
        """Has it done after what was put before; waits where too much is. Abandoned, it does nothing.

        Raises:
            BaseException: what an earlier one raised.
        """
        self.check()
        while not self._abandoned:
            with suppress(queue.Full):
                self._todo.put(work, timeout=_LOOK_UP_S)
                return

    def offer(self, work: Callable[[], None]) -> bool:
        """Has it done after what was put before, or where too much was, not at all: whether it will be."""
        try:
            self._todo.put_nowait(work)
        except queue.Full:
            return False
        return True

    def wait(self) -> None:
        """Until all is done.

        Raises:
            BaseException: what one raised; those after it were left undone.
        """
        self._todo.join()
        self.check()

    def close(self) -> None:
        """Ends the thread, once all is done.

        Raises:
            BaseException: what one raised; those after it were left undone.
        """
        if self._thread.is_alive():
            self._todo.put(None)
            self._thread.join()
        self.check()

    def abandon(self) -> None:
        """Leaves undone what has not begun."""
        self._abandoned = True

    def check(self) -> None:
        """Tells at once how things went so far.

        Raises:
            BaseException: what one raised.
        """
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        while (work := self._todo.get()) is not None:
            try:
                if self._failed is None and not self._abandoned:
                    work()
            except BaseException as error:
                self._failed = error
            finally:
                del work  # it may hold the rows of many windows
                self._todo.task_done()
        self._todo.task_done()
