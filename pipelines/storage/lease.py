"""One job at a time on an output in an object store: a lease that its holder renews.

Locks are numbered objects, each made with a PUT that the store refuses where there is one; who has made the
highest holds it. A holder that was killed is known on its own machine at once, elsewhere by its silence; the
clock is that of the store. Who then makes the next number has it, and the one before learns so.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import psutil

from pipelines.storage.remote import Remote
from schemas.errors import OutputError

LAPSES_S: Final = 60.0
"""Seconds of silence after which a lease is up."""

_RENEWED_EVERY_S = 15.0
_LOCK = ".lock-"
_NAME: Final = re.compile(re.escape(_LOCK) + r"\d{6,}")


def _hold_on() -> None:
    """Raise nothing: the lock cannot be lost."""


@dataclass(frozen=True)
class Held:
    """The lock of an output folder, while it is held.

    Attributes:
        check: raises `OutputError` once the job has learnt that another one has taken over; a job that was
            silent must call it.
        confirm: raises it where another job has taken over by now; in an object store this is a request.
    """

    check: Callable[[], None] = _hold_on
    confirm: Callable[[], None] = _hold_on

    def __call__(self) -> None:
        """Do what ``check`` does."""
        self.check()


@contextmanager
def leased(folder: Remote) -> Iterator[Held]:
    """Keeps every other job off an output until the block ends.

    Yields:
        What raises `OutputError` once another job has taken over.

    Raises:
        OutputError: another job has it; or nothing can be written there.
    """
    mine = _acquire(folder)
    lost, ended = threading.Event(), threading.Event()

    def check() -> None:
        if lost.is_set():
            raise OutputError(f"{folder}: another job has taken over, since this one was silent for too long")

    def confirm() -> None:
        if _highest(folder) != mine:
            lost.set()
        check()

    def renew() -> None:
        while not ended.wait(_RENEWED_EVERY_S):
            with suppress(OSError):  # as long as the store cannot be reached, nobody can take over
                if _highest(folder) != mine:
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
        # Not deleted: who looked before and makes the next number is told that it is not the next.
        with suppress(OSError):
            if not lost.is_set():
                mine.write_bytes(json.dumps({"released": True}).encode())


def check_writable(folder: Remote) -> None:
    """Puts an object there, and deletes it.

    Raises:
        OutputError: that cannot be done; one line.
    """
    _look(folder)


def was_leased(folder: Remote) -> bool:
    """Whether a job ever was there."""
    return any(folder.glob(f"{_LOCK}*"))


def _acquire(folder: Remote) -> Remote:
    now_s, locks = _look(folder)
    if locks and (who := _holder(locks[-1], now_s)):
        raise OutputError(f"{folder}: {who} is writing here: wait for its end, or name another folder")
    number = _number(locks[-1]) + 1 if locks else 1
    mine = folder / f"{_LOCK}{number:06d}"
    is_first = _created(mine)
    if is_first and _created(mine):
        raise OutputError(f"{folder}: a store without conditional PUT, so two jobs could write here at once")
    if not is_first or _highest(folder) != mine:
        raise OutputError(f"{folder}: another job has just begun to write here: name another folder")
    for older in locks:
        with suppress(OSError):
            older.unlink(missing_ok=True)
    return mine


def _created(lock: Remote) -> bool:
    try:
        return lock.create(_identity())
    except OSError as error:
        raise _cannot_write(lock.parent, error) from error


def _look(folder: Remote) -> tuple[float, list[Remote]]:
    """The store's time, in seconds since 1970, and the locks, the highest last."""
    probe = folder / f".probe-{uuid4().hex}"
    try:
        probe.write_bytes(b"")
        try:
            listed = list(folder.glob(".*"))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    now_ns = max(path.written_ns for path in listed if path == probe)
    return now_ns / 1e9, [path for path in listed if _NAME.fullmatch(path.name)]


def _cannot_write(folder: Remote, error: OSError) -> OutputError:
    return OutputError(f"{folder}: cannot write here ({error.strerror}): name another folder")


def _highest(folder: Remote) -> Remote:
    locks = (path for path in folder.glob(f"{_LOCK}*") if _NAME.fullmatch(path.name))
    return max(locks, default=folder)


def _holder(lock: Remote, now_s: float) -> str | None:
    silent_s = now_s - lock.written_ns / 1e9
    left_s = max(LAPSES_S - silent_s, 1)
    try:
        told: dict[str, Any] = json.loads(lock.read_bytes())
        if "released" in told or silent_s > LAPSES_S or _is_dead(told):
            return None
        who = f"process {told['pid']} on {told['host']} since {told['since']}"
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):  # not as a job writes it: then its time alone counts
        if silent_s > LAPSES_S:
            return None
        who = "which its lock does not name"
    return f"another job, {who} (if that has died: for {left_s:.0f} s more),"


def _number(lock: Remote) -> int:
    return int(lock.name.removeprefix(_LOCK))


def _identity() -> bytes:
    return json.dumps(
        {
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "started_s": psutil.Process().create_time(),
            "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        }
    ).encode()


def _is_dead(told: dict[str, Any]) -> bool:
    """Whether a process of this machine is known to be gone."""
    if told["machine"] != _machine():
        return False
    try:
        started_s: float = psutil.Process(told["pid"]).create_time()
    except psutil.NoSuchProcess:
        return True
    return abs(started_s - float(told["started_s"])) > 1


def _machine() -> str:
    """What tells this boot of this machine, and the processes that can be seen from here, from any other."""
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    told = [socket.gethostname()]
    with suppress(OSError):
        told += [boot.read_text().strip(), str(space.readlink())]
    return " ".join(told)
