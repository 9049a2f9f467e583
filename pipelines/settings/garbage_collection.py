"""Turn off Python's garbage collector while very many objects are created."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Turn off Python's garbage collector while the ``with`` block runs.

    Very many new objects make the collector visit all objects of the process again and again. A poll of a
    Kafka client may create 100,000 messages at once, which need no collection because they have no cycles.
    With Beam and torch loaded, the visits took most of the time of a poll, and all other threads had to wait.
    The visits also take a sixth of the time in which torch and MLflow are imported.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
