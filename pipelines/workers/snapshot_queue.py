"""Turns: of many that ask, one at a time does what memory has room for once."""

from __future__ import annotations

import threading
from collections.abc import Callable


class SnapshotQueue:
    """Whose turn it is. Who asks has it as soon as nobody else does; who has it ends it.

    Args:
        call: called with the number of one who asked, when a turn is free for it to take; whether it can be
            reached. One who cannot takes the turn by itself, later.
    """

    def __init__(self, call: Callable[[int], bool]) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._asked: list[int] = []
        self._is_taken = self._is_closed = False

    def ask(self, number: int) -> None:
        """Asks for a turn, once however often that is said."""
        with self._lock:
            if number not in self._asked:
                self._asked.append(number)

    def withdraw(self, number: int) -> None:
        """Asks for none any more."""
        with self._lock:
            if number in self._asked:
                self._asked.remove(number)

    def take(self, number: int) -> bool:
        """Whether it asked for a turn and has it by this."""
        with self._lock:
            if number not in self._asked or self._is_taken or self._is_closed:
                return False
            self._asked.remove(number)
            self._is_taken = True
            return True

    def end(self) -> None:
        """Ends the turn, and calls whoever has waited longest of those that can be reached."""
        with self._lock:
            self._is_taken = False
            if not self._is_closed:
                any(self._call(number) for number in self._asked)

    def close(self) -> None:
        """There are no more turns, and nobody is called after this."""
        with self._lock:
            self._is_closed = True
