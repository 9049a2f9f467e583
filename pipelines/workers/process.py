"""The process that a job runs in: its cores, and how it takes memory.

Blocks of forecasts are many megabytes, and each follows another.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# malloc.h of glibc
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

_LARGEST_FROM_HEAP: Final = 32 * 2**20  # as high as glibc lets it be
_KEPT: Final = 2**30


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reuse_freed_memory() -> None:
    """Has freed memory used again, by all threads; to be called before a second thread takes any.

    By default glibc gives every thread an arena of its own and hands large blocks back to the kernel, which
    clears each page once more when the next block comes: with it a backfill takes a third longer. Where
    malloc is another one, nothing is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


@contextmanager
def without_collecting_loaded_objects() -> Iterator[None]:
    """Leaves what is loaded by now, modules by the thousand, out of the collector's rounds in the block.

    Each round would look through it all and stop every thread meanwhile.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
