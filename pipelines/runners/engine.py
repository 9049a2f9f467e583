"""An engine as a process of one job: it ends with the job, however that ends.

An engine outlives a pipeline that is killed, so it is tied to its owner twice: by a pipe whose end the
owner's death closes, and by a record that the next start looks at.
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

from pipelines.runners.prism_binary import cache_dir
from pipelines.storage import Location, write_text
from schemas.errors import EngineError

_STOP_LIMIT_S: Final = 5.0
_PORTS_TRIED: Final = 3
_HANG_UP_LIMIT_S: Final = 2.0
# Beam's worker threads that raise where a connection is lost.
_CONNECTED: Final = ("read_state", "read_grpc_client_inputs", "run_worker_")

# Reads until the owner's end of the pipe closes, which its death does too, however it dies.
_WATCH: Final = 'read -r _; kill "$1"'


def log_file(output: Location, name: str) -> Path:
    """Where an engine's log goes: into the output folder; with an object store, this machine's cache."""
    if isinstance(output, Path):
        return output / name
    return cache_dir() / "logs" / output.url.replace("://", "-").replace("/", "-") / name


class EngineProcess:
    """An engine of one's own, on a free port, for as long as the ``with`` block lasts.

    It runs in its own session, so that a Ctrl-C in the terminal reaches the job alone, and the job can end
    cleanly. It ends with the block, and with the process that started it even when that is killed.

    Args:
        name: what errors call it.
        log: file that it writes to; its folder is made.
        start_limit_s: how long it may take to answer.

    Raises:
        EngineError: on entry, where it is missing or does not start.
    """

    def __init__(self, name: str, log: Path, start_limit_s: float = 30.0) -> None:
        self.name, self.log, self.start_limit_s = name, log, start_limit_s
        self.endpoint = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._block = contextlib.ExitStack()

    def command(self, port: int) -> Sequence[str]:
        """The program and its arguments, to listen on a port.

        Raises:
            EngineError: it is not installed.
        """
        raise NotImplementedError

    @property
    def pid(self) -> int | None:
        """Process id of the running engine, or None."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def __enter__(self) -> Self:
        end_orphans()
        self._block.enter_context(_lost_connections_are_silent())
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
        raise AssertionError("the last try is the last word")

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
        """Wait until the engine itself listens on its port.

        Returns:
            Whether it does; False where another process does, and another port is worth a try.

        Raises:
            EngineError: it does not.
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
            what = f"{what}, and another process has its port {port}"
        raise EngineError(f"{self.name} {what}: {_last_line(self.log)} (log: {self.log})")

    def _stop(self) -> None:
        self._end()
        self._block.close()

    def _end(self) -> None:
        # The watcher first: it must not live to signal a process id that is somebody else's by then.
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
    """Whether a process, or one that it has started, listens on a port."""
    with contextlib.suppress(psutil.Error):
        engine = psutil.Process(pid)
        for process in (engine, *engine.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                for socket_ in process.net_connections(kind="tcp"):
                    if socket_.status == psutil.CONN_LISTEN and socket_.laddr.port == port:
                        return True
    return False


def _answers(port: int) -> bool:
    """Whether anybody listens on a port of this machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


@contextlib.contextmanager
def _lost_connections_are_silent() -> Iterator[None]:
    """Keep Beam's worker threads from printing a stack trace each where their engine has hung up on them.

    That is how a job that fails ends, and the job says why it failed itself. Whatever else ends a thread is
    told as before.
    """
    before, told = set(threading.enumerate()), threading.excepthook

    def hook(ended: threading.ExceptHookArgs) -> None:
        if not isinstance(ended.exc_value, grpc.RpcError):
            told(ended)

    threading.excepthook = hook
    try:
        yield
    finally:
        deadline_s = time.monotonic() + _HANG_UP_LIMIT_S
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith(_CONNECTED):
                thread.join(max(deadline_s - time.monotonic(), 0))
        threading.excepthook = told


def _record_path(pid: int) -> Path:
    return cache_dir() / "run" / f"engine-{pid}.json"


def _record(pid: int) -> None:
    """Write down whose engine ``pid`` is; start times make a process id that is used again another one."""
    with contextlib.suppress(OSError, psutil.Error):  # the watcher does without
        path = _record_path(pid)
        path.parent.mkdir(parents=True, exist_ok=True)
        owner = os.getpid()
        record = {"engine": [pid, started_s(pid)], "owner": [owner, started_s(owner)]}
        write_text(path, json.dumps(record))


def started_s(pid: int) -> float | None:
    """Start of process ``pid`` in seconds since 1970, or None where there is none."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def end_orphans() -> list[int]:
    """End every engine whose owner has died, and no other process; their process ids."""
    ended = []
    for path in (cache_dir() / "run").glob("engine-*.json"):
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue  # not ours to judge
        match record:
            case {
                "engine": [int(engine), float() | None as engine_started_s],
                "owner": [int(owner), float() | None as owner_started_s],
            } if engine > 1 and owner > 0:
                pass
            case _:
                continue
        if started_s(owner) == owner_started_s:
            continue
        if engine_started_s is not None and started_s(engine) == engine_started_s:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(engine, signal.SIGKILL)
                ended.append(engine)
        path.unlink(missing_ok=True)
    return ended


def free_port() -> int:
    """A port that nobody listens on, on any interface."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            return lines[-1].strip()
    return "its log is empty"
