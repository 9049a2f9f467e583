"""A process that dies at one of its changes, as tests of crashes have it in their own process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Killed(BaseException):
    """What stands for the death of a process at one of its changes."""


@dataclass
class Mortal:
    """The changes of a process that dies at one of them, before or after it, with all its threads."""

    left: int
    after: bool
    ghosts: frozenset[threading.Thread]  # threads of processes that died before
    dead: bool = False
    lock: Any = field(default_factory=threading.RLock)  # a change may be made of others

    def of(self, change: Callable[..., Any]) -> Callable[..., Any]:
        """A change as this process makes it."""

        def made(*given: Any, **options: Any) -> Any:
            with self.lock:
                if threading.current_thread() in self.ghosts:
                    raise Killed
                self.left -= 1
                if self.dead or self.left < 0:
                    if self.after and not self.dead:
                        change(*given, **options)
                    self.dead = True
                    raise Killed
                return change(*given, **options)

        return made
