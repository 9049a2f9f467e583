"""Lock an output folder on a disk for one job at a time, with a lock of the kernel."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pipelines.storage import markers
from pipelines.storage.output_errors import cannot_write
from schemas.errors import OutputError


@contextmanager
def locked(folder: Path, prepare: Callable[[], None]) -> Iterator[None]:
    """Lock an output folder while the block runs; the kernel releases the lock when the process ends.

    If this function created the folder and it is empty at the end, the folder is removed.

    Args:
        folder: an output folder.
        prepare: creates the folder if it does not exist.

    Raises:
        OutputError: another job, in this process or another one, holds the lock, or the folder cannot be
            written to.
    """
    is_new = not folder.exists()
    lock = _acquire(folder, prepare)
    try:
        yield
    finally:
        # Remove the file before the lock is released, so that another job's file is never removed; see
        # `_is_current`.
        with suppress(OSError):
            (folder / markers.LOCK).unlink()
        if is_new:
            with suppress(OSError):  # not empty: the job has written output
                folder.rmdir()
        os.close(lock)


def _acquire(folder: Path, prepare: Callable[[], None]) -> int:
    path = folder / markers.LOCK
    while True:
        prepare()
        try:
            # O_CLOEXEC, because a child process would hold the lock after the job has ended.
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            continue  # the previous job has just removed its empty folder
        except OSError as error:
            raise cannot_write(folder, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_current(lock, path):
                os.ftruncate(lock, 0)
                os.write(lock, json.dumps({"pid": os.getpid(), "since": _now()}).encode())
                return lock
        except BlockingIOError as error:
            holder = _holder(lock)
            os.close(lock)
            raise OutputError(
                f"{folder}: {holder} is writing here: wait for its end, or name another folder"
            ) from error
        except OSError as error:
            os.close(lock)
            raise OutputError(
                f"{folder}: cannot be locked ({error.strerror}): name another folder"
            ) from error
        os.close(lock)


def _is_current(lock: int, path: Path) -> bool:
    """Return whether the locked file is still the one at ``path``.

    The previous job may have removed it between the opening and the locking.
    """
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _holder(lock: int) -> str:
    try:
        record = json.loads(os.pread(lock, 1000, 0))
        return f"another job, process {record['pid']} since {record['since']},"
    except (ValueError, KeyError, TypeError):  # the other job has not yet written its process id
        return "another job"


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
