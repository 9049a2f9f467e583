"""Run an engine as a process for one job, and end the engine with the job, even if the job is killed.

By itself, an engine process outlives a job that is killed. Two mechanisms end it. First, a watcher process
reads from a pipe that closes when the job's process dies, and then signals the engine. Second, each start
writes a record of the engine and its owner. The next start reads these records, and ends engines without a
living owner.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import grpc
import psutil

from forecaster.process_start import is_running, started_s
from pipelines.runners.prism_binary import cache_dir
from pipelines.storage import Location, store_of, write_text
from schemas.errors import EngineError

_STOP_LIMIT_S: Final = 5.0
_PORTS_TRIED: Final = 3
# longest wait for the end of Beam's worker threads after they have lost their connection
_HANG_UP_LIMIT_S: Final = 2.0
# Beam's threads with these name prefixes raise an error when they lose their connection to an engine.
_CONNECTED_THREADS: Final = ("read_state", "read_grpc_client_inputs", "run_worker_")

# The shell's `read` waits until the process that started the engine closes the pipe, or dies.
_WATCH: Final = 'read -r _; kill "$1"'


def log_file(output: Location, name: str) -> Path:
    """Return the path of an engine's log: in the output folder if it is on a disk, and else in the cache."""
    disk = store_of(output).on_disk
    if disk is None:
        disk = cache_dir() / "logs" / str(output).replace("://", "-").replace("/", "-")
    return disk / name


class EngineProcess:
    """A context manager that runs an engine process on a free port for the ``with`` block.

    The engine runs in its own session, so that Ctrl-C in the terminal reaches only the job, and the job can
    end cleanly. The engine ends with the block, and also if the process that started it is killed.

    Args:
        name: name of the engine in error messages.
        log: file for the engine's output; its folder is created.
        start_limit_s: seconds until the engine must listen on its port.

    Raises:
        EngineError: on entry, if the engine is missing or does not start.
    """

    def __init__(self, name: str, log: Path, start_limit_s: float = 30.0) -> None:
        self.name, self.log, self.start_limit_s = name, log, start_limit_s
        self.endpoint = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._block = contextlib.ExitStack()

    def command(self, port: int) -> Sequence[str]:
        """Return the program and its arguments that start the engine on ``port``.

        Raises:
            EngineError: the engine is not installed.
        """
        raise NotImplementedError

    @property
    def pid(self) -> int | None:
        """The process id of the engine; None if the engine is not running."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def __enter__(self) -> Self:
        end_orphans()
        self._block.enter_context(_silence_lost_connections())
        try:
            for tries_left in reversed(range(_PORTS_TRIED)):
                port = free_port()
                self.endpoint = f"localhost:{port}"
                self._start(self.command(port))
                if self._await_ready(port, tries_left):
                    return self
                self._end()  # another process has taken the port meanwhile
        except BaseException:
            self._stop()
            raise
        raise AssertionError("the last try returns or raises")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self, command: Sequence[str]) -> None:
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as error:
            raise EngineError(f"{self.name} ({command[0]}) cannot be started: {error}") from error
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "engine-watcher", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _record(self._process.pid)

    def _await_ready(self, port: int, tries_left: int) -> bool:
        """Wait until the engine listens on its port.

        Returns:
            True if the engine listens; False if another process has the port and tries are left.

        Raises:
            EngineError: the engine has ended or does not listen in time.
        """
        assert self._process is not None
        deadline_s = time.monotonic() + self.start_limit_s
        while self._process.poll() is None and time.monotonic() < deadline_s:
            if _listens(self._process.pid, port):
                return True
            time.sleep(0.05)
        ended = self._process.poll()
        what = "does not answer" if ended is None else f"ended at once with exit code {ended}"
        if _answers(port):
            if tries_left:
                return False
            what = f"{what}, and another process uses its port {port}"
        raise EngineError(f"{self.name} {what}: {_last_line(self.log)} (log: {self.log})")

    def _stop(self) -> None:
        self._end()
        self._block.close()

    def _end(self) -> None:
        # End the watcher before the engine. Otherwise the watcher could kill a new process that has got the
        # process id of the ended engine.
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            _record_path(self._process.pid).unlink(missing_ok=True)
            self._process = None


def _listens(pid: int, port: int) -> bool:
    """Return whether the process ``pid`` or one of its descendants listens on ``port``."""
    with contextlib.suppress(psutil.Error):
        engine = psutil.Process(pid)
        for process in (engine, *engine.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                for socket_ in process.net_connections(kind="tcp"):
                    if socket_.status == psutil.CONN_LISTEN and socket_.laddr.port == port:
                        return True
    return False


def _answers(port: int) -> bool:
    """Return whether any process of this machine accepts connections on ``port``."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


@contextlib.contextmanager
def _silence_lost_connections() -> Iterator[None]:
    """Hide the stack traces that Beam's worker threads print when they lose their connection to an engine.

    When a job fails, its threads lose their connections, and the job itself reports the reason. Other errors
    of threads are passed to the previous hook.
    """
    before, previous_hook = set(threading.enumerate()), threading.excepthook

    def hook(ended: threading.ExceptHookArgs) -> None:
        if not isinstance(ended.exc_value, grpc.RpcError):
            previous_hook(ended)

    threading.excepthook = hook
    try:
        yield
    finally:
        deadline_s = time.monotonic() + _HANG_UP_LIMIT_S
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith(_CONNECTED_THREADS):
                thread.join(max(deadline_s - time.monotonic(), 0))
        threading.excepthook = previous_hook


def _record_path(pid: int) -> Path:
    return cache_dir() / "run" / f"engine-{pid}.json"


def _record(pid: int) -> None:
    """Record that this process owns the engine ``pid``; record the start times of both processes, too.

    The operating system reuses process ids, but a process id and a start time together identify a process.
    """
    # Ignore a failure to write the record: if this process dies, the watcher ends the engine anyway.
    with contextlib.suppress(OSError, psutil.Error):
        path = _record_path(pid)
        path.parent.mkdir(parents=True, exist_ok=True)
        owner = os.getpid()
        record = {"engine": [pid, started_s(pid)], "owner": [owner, started_s(owner)]}
        write_text(path, json.dumps(record))


def end_orphans() -> list[int]:
    """End every recorded engine whose owner has died, and return the process ids of these engines."""
    ended = []
    for path in (cache_dir() / "run").glob("engine-*.json"):
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue  # leave a file that another program may have written
        match record:
            case {
                "engine": [int(engine), float() | None as engine_started_s],
                "owner": [int(owner), float() | None as owner_started_s],
            } if engine > 1 and owner > 0:
                pass
            case _:
                continue
        if owner_started_s is not None and is_running(owner, owner_started_s):
            continue
        if engine_started_s is not None and is_running(engine, engine_started_s):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(engine, signal.SIGKILL)
                ended.append(engine)
        path.unlink(missing_ok=True)
    return ended


def free_port() -> int:
    """Return a port that is free on every interface."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            return lines[-1].strip()
    return "its log is empty"
