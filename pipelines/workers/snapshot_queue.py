"""Let one shard at a time copy its state for a snapshot, to bound memory."""

from __future__ import annotations

import threading
from collections.abc import Callable


class SnapshotQueue:
    """A queue in which shards wait for their turn; only one shard has the turn, until `end` is called.

    Args:
        call: called with the number of a waiting shard when the turn is free. Returns whether the shard will
            be notified; a shard that is not notified calls `take` later by itself.
    """

    def __init__(self, call: Callable[[int], bool]) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._waiting: list[int] = []
        self._is_taken = self._is_closed = False

    def ask(self, number: int) -> None:
        """Add a shard to the queue; repeated requests count once."""
        with self._lock:
            if number not in self._waiting:
                self._waiting.append(number)

    def withdraw(self, number: int) -> None:
        """Remove a shard from the queue."""
        with self._lock:
            if number in self._waiting:
                self._waiting.remove(number)

    def take(self, number: int) -> bool:
        """Give the turn to a waiting shard if it is free; return whether the shard has it now."""
        with self._lock:
            if number not in self._waiting or self._is_taken or self._is_closed:
                return False
            self._waiting.remove(number)
            self._is_taken = True
            return True

    def end(self) -> None:
        """End the turn, and call the waiting shards, oldest first, until one can be notified."""
        with self._lock:
            self._is_taken = False
            if not self._is_closed:
                any(self._call(number) for number in self._waiting)

    def close(self) -> None:
        """Close the queue: from now on it gives no turns and notifies no shard."""
        with self._lock:
            self._is_closed = True
