"""Lock an output in an object store for one job at a time, with a lease that the job renews.

The leases are objects with ascending numbers. A job creates the object with the next number by a PUT that the
store refuses if the object exists. The job with the highest number holds the output. Another job takes the
output over when the holder has not renewed its lease for a minute, by the clock of the store. If the holder
ran on the same machine and its process is dead, another job need not wait. An earlier holder that is still
alive finds the higher number and stops.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from forecaster.process_start import is_running, started_s
from pipelines.storage import markers
from pipelines.storage.output_errors import folder_errors
from pipelines.storage.remote import Remote
from pipelines.storage.store import Held
from schemas.errors import OutputError

LAPSES_S: Final = 60.0
"""Seconds without renewal after which a lease expires."""

_RENEWED_EVERY_S = 15.0


@contextmanager
def leased(folder: Remote) -> Iterator[Held]:
    """Hold the lease of an output in an object store while the ``with`` block runs.

    Yields:
        Checks that raise `OutputError` after another job has taken the output over.

    Raises:
        OutputError: another job holds the lease, or the output cannot be written to.
    """
    mine = _acquire(folder)
    lost, ended = threading.Event(), threading.Event()

    def check() -> None:
        if lost.is_set():
            raise OutputError(
                f"{folder}: another job has taken over this output, because this job did not renew its lease "
                "in time"
            )

    def confirm() -> None:
        if _highest_lock(folder) != mine:
            lost.set()
        check()

    def renew() -> None:
        while not ended.wait(_RENEWED_EVERY_S):
            # Ignore an error: the next renewal detects whether another job has taken the output over.
            with suppress(OSError):
                if _highest_lock(folder) != mine:
                    lost.set()
                    return
                mine.write_bytes(_identity())

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield Held(check, confirm)
    finally:
        ended.set()
        thread.join()
        # Mark the lease as released, but do not delete it.
        # After a deletion, a job that listed the leases earlier could create a lease with the same number.
        with suppress(OSError):
            if not lost.is_set():
                mine.write_bytes(json.dumps({"released": True}).encode())


def check_writable(folder: Remote) -> None:
    """Check that an output can be written to, by putting an object and deleting it.

    Raises:
        OutputError: the store refuses the request or cannot be reached.
    """
    _list_locks(folder)


def _acquire(folder: Remote) -> Remote:
    now_s, locks = _list_locks(folder)
    if locks and (who := _holder(locks[-1], now_s)):
        raise OutputError(f"{folder}: {who} is writing here: wait for its end, or name another folder")
    number = markers.lease_number(locks[-1].name) + 1 if locks else 1
    mine = folder / markers.lease(number)
    is_first = _try_create(mine)
    if is_first and _try_create(mine):
        raise OutputError(
            f"{folder}: the store has no conditional PUT, so two jobs could write here: use another store"
        )
    if not is_first or _highest_lock(folder) != mine:
        raise OutputError(f"{folder}: another job has just begun to write here: name another folder")
    for older in locks:
        with suppress(OSError):
            older.unlink(missing_ok=True)
    return mine


def _try_create(lock: Remote) -> bool:
    with folder_errors(lock.parent):
        return lock.create(_identity())


def _list_locks(folder: Remote) -> tuple[float, list[Remote]]:
    """Return the store's time, in seconds since 1970, and the paths of all leases, sorted by number."""
    probe = folder / markers.probe()
    with folder_errors(folder):
        probe.write_bytes(b"")
        try:
            listed = list(folder.glob(".*"))
        finally:
            probe.unlink(missing_ok=True)
    now_ns = max(path.written_ns for path in listed if path == probe)
    return now_ns / 1e9, [path for path in listed if markers.is_lease(path.name)]


def _highest_lock(folder: Remote) -> Remote:
    locks = (path for path in folder.glob(markers.LEASES) if markers.is_lease(path.name))
    return max(locks, default=folder)


def _holder(lock: Remote, now_s: float) -> str | None:
    silent_s = now_s - lock.written_ns / 1e9
    left_s = max(LAPSES_S - silent_s, 1)
    try:
        record: dict[str, Any] = json.loads(lock.read_bytes())
        if "released" in record or silent_s > LAPSES_S or _is_dead(record):
            return None
        who = f"process {record['pid']} on {record['host']} since {record['since']}"
    except FileNotFoundError:
        return None
    # The content is damaged, so only the time since the last renewal shows whether a job holds the lease.
    except (ValueError, KeyError, TypeError):
        if silent_s > LAPSES_S:
            return None
        who = "which its lock does not name"
    return f"another job, {who} (if that has died: for {left_s:.0f} s more),"


def _identity() -> bytes:
    return json.dumps(
        {
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "started_after_boot_s": started_s(os.getpid()),
            "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        }
    ).encode()


def _is_dead(record: dict[str, Any]) -> bool:
    """Return whether the process that wrote a lease is known to have ended.

    Return False for a process of another machine, of an earlier boot or of another process namespace.
    """
    if record["machine"] != _machine():
        return False
    return not is_running(int(record["pid"]), float(record["started_after_boot_s"]))


def _machine() -> str:
    """Return a text that identifies this machine; on Linux, also its last boot and its process namespace."""
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [boot.read_text().strip(), str(space.readlink())]
    return " ".join(parts)
