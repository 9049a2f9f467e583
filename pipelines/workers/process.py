"""Change settings of a job's process: memory allocation, garbage collection, priority of threads."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# the numbers of mallopt's parameters, from glibc's malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

# With a nice value larger by 5, a thread gets a quarter of a core that it shares with another thread.
# With the largest nice value, 19, the thread would get almost nothing of the core.
_LESS_PRIORITY = 5
_LEAST_PRIORITY = 19
_LARGEST_FROM_HEAP: Final = 32 * 2**20  # the largest value of M_MMAP_THRESHOLD that glibc accepts, in bytes
_TRIM_ABOVE: Final = 2**30


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lower_priority_of_thread() -> None:
    """Give the calling thread a lower priority than the other threads of the process.

    Linux sets priorities per thread. On other systems this function changes nothing.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        lower = os.getpriority(os.PRIO_PROCESS, thread) + _LESS_PRIORITY  # a larger value is a lower priority
        os.setpriority(os.PRIO_PROCESS, thread, min(lower, _LEAST_PRIORITY))


def reuse_freed_memory() -> None:
    """Let all threads reuse freed memory; call this before a second thread starts.

    By default, glibc gives every thread its own arena and returns large blocks of memory to the kernel. The
    kernel zeroes each page again for the next block. A backfill allocates many megabytes for each block of
    forecasts, and would take a third longer. Allocators other than glibc's are left unchanged.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_ABOVE)


@contextmanager
def without_collecting_loaded_objects() -> Iterator[None]:
    """Exclude the objects that exist now from garbage collection while the ``with`` block runs.

    Most of these objects belong to imported modules. Without this function, each collection traverses all of
    them, and stops every thread meanwhile.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
