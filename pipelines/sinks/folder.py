"""Check, create and lock an output folder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pipelines.storage import (
    Held,
    Location,
    Remote,
    cannot_write,
    check_writable,
    leased,
    make_folder,
    markers,
    remove_temporaries,
)
from schemas.errors import OutputError


def check_folder(folder: Location) -> int | None:
    """Check that a folder exists or can be created, and can be written to; create nothing.

    Returns:
        Free bytes on its disk; None for an object store.

    Raises:
        OutputError: the folder cannot be created or written to.
    """
    if isinstance(folder, Remote):
        check_writable(folder)
        return None
    folder = folder.expanduser().absolute()
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise OutputError(f"{there} is a file, not a folder: name another folder")
    try:
        # Create a file without a name: `os.access` returns True to root even on a read-only disk.
        with tempfile.TemporaryFile(dir=there):
            pass
        return shutil.disk_usage(there).free
    except OSError as error:
        raise cannot_write(folder, error) from error


def prepare_folder(folder: Location, *parts: str) -> None:
    """Create an output folder and the folders in it that the job writes to.

    Args:
        folder: an output folder.
        parts: names of the folders in the output folder.

    Raises:
        OutputError: the folder cannot be written to.
    """
    if isinstance(folder, Remote):
        # A store has no folders, and the lease of this job has shown that it can be written to.
        return
    check_folder(folder)
    try:
        for made in (folder, *(folder / part for part in parts)):
            make_folder(made)
            remove_temporaries(made)
    except OSError as error:
        raise cannot_write(folder, error) from error


@contextmanager
def locked(folder: Location) -> Iterator[Held]:
    """Create an output folder, and lock it against other jobs while the block runs.

    Jobs in this process are locked out, too. On a disk the kernel holds the lock, and releases it when the
    process ends, however it ends. If this function created the folder and it is empty at the end, the folder
    is removed. In an object store the lock is a lease; see `leased`.

    Yields:
        A check that raises `OutputError` if the lock was lost, as a lease can be.

    Raises:
        OutputError: another job holds the lock, or the folder cannot be written to.
    """
    if isinstance(folder, Remote):
        with leased(folder) as held:
            yield held
        return
    is_new = not folder.exists()
    lock = _acquire(folder)
    try:
        yield Held()
    finally:
        # Remove the file before the lock is released, so that another job's file is never removed; see
        # `_is_current`.
        with suppress(OSError):
            (folder / markers.LOCK).unlink()
        if is_new:
            with suppress(OSError):  # not empty: the job has written output
                folder.rmdir()
        os.close(lock)


def _acquire(folder: Path) -> int:
    path = folder / markers.LOCK
    while True:
        prepare_folder(folder)
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
