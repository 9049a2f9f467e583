"""The start time of a process, counted from the boot: corrections of the clock do not change it."""

from __future__ import annotations

import psutil


def started_s(pid: int) -> float | None:
    """Return the start time of process ``pid`` in seconds since the boot; None if no such process runs.

    A process that has ended and that its parent has not waited for yet counts as ended. The start time since
    1970 would change with each correction of the machine's clock, so that a live process would look like
    another one.
    """
    try:
        process = psutil.Process(pid)
        is_zombie = process.status() == psutil.STATUS_ZOMBIE
        return None if is_zombie else round(process.create_time() - psutil.boot_time(), 2)
    except psutil.Error:
        return None


def is_running(pid: int, started: float) -> bool:
    """Return whether the process ``pid`` that started at ``started`` (see `started_s`) still runs."""
    now = started_s(pid)
    # A process that has this id but started at another time is another process.
    return now is not None and abs(now - started) < 2.0
