"""Generators that run side by side in threads, their results merged as they come.

Worth it where the work is done outside Python's lock, as torch, Polars and NumPy do theirs.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_AHEAD: Final = 2  # results that wait to be taken; each may be a block of forecasts of many megabytes
_LOOK_UP_S: Final = 0.2


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class _Ended:
    """A generator has ended, by itself or with an error."""

    error: BaseException | None = None


class SideBySide(Generic[T]):
    """Starts generators and hands out what they give, in whatever order it comes.

    Not itself safe to be shared between threads. Where one of the generators raises, or nobody takes results
    any more, the others end at their next result.
    """

    def __init__(self) -> None:
        self._results: queue.Queue[T | _Ended] = queue.Queue(_AHEAD)
        self._abandoned = threading.Event()
        self._running = 0

    def start(self, work: Iterator[T]) -> None:
        """Runs ``work`` in a thread of its own."""
        self._running += 1
        threading.Thread(target=self._run, args=(work,), name="side by side", daemon=True).start()

    def results(self, until: int) -> Generator[T, None, None]:
        """What has come and what comes, until at most ``until`` generators are still running.

        Raises:
            BaseException: what a generator raised.
        """
        try:
            while self._running > until:
                result = self._results.get()
                if not isinstance(result, _Ended):
                    yield result
                    continue
                self._running -= 1
                if result.error is not None:
                    raise result.error
        except BaseException:
            self._abandoned.set()
            raise

    def _run(self, work: Iterator[T]) -> None:
        try:
            for result in work:
                self._give(result)
                if self._abandoned.is_set():
                    return
            self._give(_Ended())
        except BaseException as error:
            self._give(_Ended(error))

    def _give(self, result: T | _Ended) -> None:
        while not self._abandoned.is_set():
            with suppress(queue.Full):
                self._results.put(result, timeout=_LOOK_UP_S)
                return
