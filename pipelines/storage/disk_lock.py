"""Lock an output folder on a disk for one job at a time, with a lock of the kernel."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from forecaster.process_start import started_s
from pipelines.storage import markers
from schemas.errors import OutputError

_TRIED_FOR_S: Final = 0.2
_TRIED_EVERY_S: Final = 0.02


@contextmanager
def locked(folder: Path, prepare: Callable[[], None]) -> Iterator[None]:
    """Lock an output folder while the ``with`` block runs; the kernel releases the lock if the process dies.

    If this function created the folder, and the folder is empty at the end, it is removed.

    Args:
        folder: an output folder.
        prepare: creates the folder if it does not exist.

    Raises:
        OutputError: another job, in this process or another one, holds the lock, or the folder cannot be
            written to.
    """
    is_new, path = not folder.exists(), folder / markers.LOCK
    # Use only a lock of the kernel, because a lock that is only a file would outlive a killed process.
    lock = FileLock(path, mode=0o644, fallback_to_soft=False)
    _acquire(lock, folder, prepare)
    try:
        since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        started = started_s(os.getpid())
        path.write_text(json.dumps({"pid": os.getpid(), "started_after_boot_s": started, "since": since}))
        yield
    finally:
        # Remove the file before releasing the lock, so that the file of another job is never removed.
        # Another job may have opened the file before. It gets no lock on the removed file, because `FileLock`
        # checks that the file still exists.
        with suppress(OSError):
            path.unlink()
        if is_new:
            with suppress(OSError):  # `rmdir` fails if the folder has output, which must stay
                folder.rmdir()
        lock.release()


def _acquire(lock: FileLock, folder: Path, prepare: Callable[[], None]) -> None:
    while True:
        prepare()
        try:
            # Try for some time: if an ending job removes the lock file that this job has opened, a try fails.
            lock.acquire(timeout=_TRIED_FOR_S, poll_interval=_TRIED_EVERY_S)
        except FileNotFoundError:
            continue  # another job removed the empty folder after `prepare` created it, so create it again
        except Timeout as error:
            holder = _holder(folder / markers.LOCK)
            raise OutputError(
                f"{folder}: {holder} is writing here: wait for its end, or name another folder"
            ) from error
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be locked ({error.strerror}): name another folder"
            ) from error
        return


def _holder(path: Path) -> str:
    try:
        record = json.loads(path.read_bytes())
        return f"another job, process {record['pid']} since {record['since']},"
    except (OSError, ValueError, KeyError, TypeError):  # the file has no process id yet, or is gone
        return "another job"
