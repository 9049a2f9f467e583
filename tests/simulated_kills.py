"""Simulate the kill of a job that runs in the process of the test.

From one change to a file on, every thread of the job fails at its next change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Killed(BaseException):
    """Exception that ends the threads of a job, to simulate a kill of its process."""


@dataclass
class KillableProcess:
    """A simulated process that is killed at one of its changes to files or objects.

    Attributes:
        left: changes that succeed before the kill.
        after: True if the change at which the kill happens is still made.
        killed_threads: threads of processes that were killed earlier; each of their changes fails.
        dead: True after the kill.
        lock: held during a change; reentrant, because a change may call other changes.
    """

    left: int
    after: bool
    killed_threads: frozenset[threading.Thread]
    dead: bool = False
    lock: Any = field(default_factory=threading.RLock)

    def wrap(self, change: Callable[..., Any]) -> Callable[..., Any]:
        """Return a replacement for ``change``: it calls ``change`` until the kill, then raises `Killed`."""

        def wrapped(*given: Any, **options: Any) -> Any:
            with self.lock:
                if threading.current_thread() in self.killed_threads:
                    raise Killed
                self.left -= 1
                if self.dead or self.left < 0:
                    if self.after and not self.dead:
                        change(*given, **options)
                    self.dead = True
                    raise Killed
                return change(*given, **options)

        return wrapped
