"""An output folder: whether it can be written, what is made in it, and one job on it at a time."""

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
from typing import Final

from pipelines.storage import (
    Held,
    Location,
    Remote,
    check_writable,
    leased,
    make_folder,
    remove_temporaries,
)
from schemas.errors import OutputError

LOCK: Final = ".lock"
"""The file under an output folder that its job holds locked."""


def check_folder(folder: Location) -> int | None:
    """Checks that a folder can be written to, or made; makes nothing.

    Returns:
        Free bytes on its disk; None of an object store.

    Raises:
        OutputError: it cannot; one line.
    """
    if isinstance(folder, Remote):
        check_writable(folder)
        return None
    folder = folder.expanduser().absolute()
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise OutputError(f"{there} is a file, not a folder: name another folder")
    try:
        # Asking is not knowing: root is told yes on a read-only disk. So a file is made, one without a name.
        with tempfile.TemporaryFile(dir=there):
            pass
        return shutil.disk_usage(there).free
    except OSError as error:
        raise _cannot_write(folder, error) from error


def prepare_folder(folder: Location, *parts: str) -> None:
    """Makes a folder and those under it that are written to as rows come in.

    Args:
        folder: an output folder.
        parts: names of folders in it.

    Raises:
        OutputError: it cannot be written to.
    """
    if isinstance(folder, Remote):  # it has no folders, and its lease has shown that it can be written to
        return
    check_folder(folder)
    try:
        for made in (folder, *(folder / part for part in parts)):
            make_folder(made)
            remove_temporaries(made)
    except OSError as error:
        raise _cannot_write(folder, error) from error


@contextmanager
def locked(folder: Location) -> Iterator[Held]:
    """Makes an output folder and keeps every other job off it, in this process, too, until the block ends.

    The kernel holds the lock for the process: however that dies, its lock is gone. A folder that was made
    here and is still empty in the end goes with it. In an object store it is a lease; see `leased`.

    Yields:
        What raises `OutputError` where the lock has been lost after all, as a lease can be.

    Raises:
        OutputError: another job has it, which the line names; or it cannot be written to.
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
        # Before it is let go, so that nobody's lock is removed but our own; see `_is_current`.
        with suppress(OSError):
            (folder / LOCK).unlink()
        if is_new:
            with suppress(OSError):  # not empty: it ended well
                folder.rmdir()
        os.close(lock)


def _acquire(folder: Path) -> int:
    path = folder / LOCK
    while True:
        prepare_folder(folder)
        try:
            # Not handed on to programs that the job starts: they would hold the lock after its death.
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            continue  # the job before has just ended, and taken its empty folder away
        except OSError as error:
            raise _cannot_write(folder, error) from error
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
    """Whether a lock is on the file that others find, and not on one that has been removed meanwhile."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _holder(lock: int) -> str:
    try:
        told = json.loads(os.pread(lock, 1000, 0))
        return f"another job, process {told['pid']} since {told['since']},"
    except (ValueError, KeyError, TypeError):  # it has the lock, and not yet written who it is
        return "another job"


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _cannot_write(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"{folder}: cannot write here ({error.strerror}): name another folder")
