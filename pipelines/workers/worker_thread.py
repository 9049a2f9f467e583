"""A thread with a queue of tasks; the error of a task is raised where tasks are queued or waited for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress

_CHECK_EVERY_S = 0.2  # how often a blocked `put` checks whether the thread was abandoned


class WorkerThread:
    """A thread that runs tasks in order; after a task has failed, the thread skips all later tasks.

    Args:
        name: name of the thread.
        ahead: number of tasks that may wait; 0 for any number.
    """

    def __init__(self, name: str, ahead: int = 0) -> None:
        self._todo: queue.Queue[Callable[[], None] | None] = queue.Queue(ahead)
        self._failed: BaseException | None = None
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, work: Callable[[], None]) -> None:
        """Queue a task; wait while the queue is full. Do nothing if the thread is abandoned.

        Raises:
            BaseException: the error of an earlier task.
        """
        self.check()
        while not self._abandoned:
            with suppress(queue.Full):
                self._todo.put(work, timeout=_CHECK_EVERY_S)
                return

    def offer(self, work: Callable[[], None]) -> bool:
        """Queue a task if the queue has room; return whether the task was queued."""
        try:
            self._todo.put_nowait(work)
        except queue.Full:
            return False
        return True

    def wait(self) -> None:
        """Wait until all tasks are done.

        Raises:
            BaseException: the error of a task; the tasks after it were skipped.
        """
        self._todo.join()
        self.check()

    def close(self) -> None:
        """End the thread after all tasks are done.

        Raises:
            BaseException: the error of a task; the tasks after it were skipped.
        """
        if self._thread.is_alive():
            self._todo.put(None)
            self._thread.join()
        self.check()

    def abandon(self) -> None:
        """Skip the tasks that have not begun."""
        self._abandoned = True

    def check(self) -> None:
        """Raise the error of a failed task, if there is one.

        Raises:
            BaseException: the error.
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
                del work  # free it now, because it may hold the rows of many windows
                self._todo.task_done()
        self._todo.task_done()
