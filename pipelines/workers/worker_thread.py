"""Run tasks in a thread, from a queue; an error of a task is raised when tasks are queued or awaited."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

_T = TypeVar("_T")
_CHECK_EVERY_S = 0.2  # how often a waiting `put` checks whether the thread was abandoned


class WorkerThread:
    """A thread that runs tasks in order; after a task has failed, the thread skips all later tasks.

    Args:
        name: name of the thread.
        ahead: number of tasks that may wait; 0 for any number.
    """

    def __init__(self, name: str, ahead: int = 0) -> None:
        self._todo: queue.Queue[tuple[Callable[[], Any], Future[Any]] | None] = queue.Queue(ahead)
        self._failed: BaseException | None = None
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, work: Callable[[], _T]) -> Future[_T]:
        """Queue a task and return the future of its result; wait while the queue is full.

        The future is cancelled if the thread was abandoned, or if an earlier task has failed.

        Raises:
            BaseException: the error of an earlier task.
        """
        self.check()
        result: Future[_T] = Future()
        while not self._abandoned:
            with suppress(queue.Full):
                self._todo.put((work, result), timeout=_CHECK_EVERY_S)
                return result
        result.cancel()
        return result

    def wait(self) -> None:
        """Wait until all queued tasks are done.

        Raises:
            BaseException: the error of a task; the tasks after it were skipped.
        """
        self._todo.join()
        self.check()

    def close(self) -> None:
        """Wait until all queued tasks are done, and end the thread.

        Raises:
            BaseException: the error of a task; the tasks after it were skipped.
        """
        if self._thread.is_alive():
            self._todo.put(None)
            self._thread.join()
        self.check()

    @property
    def is_busy(self) -> bool:
        """Whether a task is running or waiting in the queue."""
        return self._todo.unfinished_tasks > 0

    def abandon(self) -> None:
        """Skip the tasks that have not begun, and all later tasks."""
        self._abandoned = True

    def check(self) -> None:
        """Raise the error of a failed task, if there is one.

        Raises:
            BaseException: the error.
        """
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        while (task := self._todo.get()) is not None:
            work, result = task
            try:
                if self._failed is None and not self._abandoned:
                    result.set_result(work())
                else:
                    result.cancel()
            except BaseException as error:
                self._failed = error
                result.set_exception(error)
            finally:
                # free these objects before the next task: they may hold the rows of many windows
                del task, work, result
                self._todo.task_done()
        self._todo.task_done()
