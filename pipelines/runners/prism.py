"""Prism, the streaming engine, as a process of one job.

Prism is one Go program of the same version as Beam, and it keeps its state in memory. Two things about it
decide what is here. It listens on every network interface and has no option for less, so each job starts
its own on a free port and ends it with the job. And it outlives a pipeline that is killed, so it is tied to
its owner twice: by a pipe whose end the owner's death closes, and by a record that the next start looks at.

``python -m pipelines.runners.prism setup`` finds or installs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import grpc
import psutil

from pipelines.runners.prism_binary import beam_version, cache_dir, fetch_release, find_prism, setup_prism
from schemas.errors import EngineError

__all__ = ["PrismServer", "end_orphans", "find_prism", "prism_options", "setup_prism"]

_START_LIMIT_S: Final = 30.0
_STOP_LIMIT_S: Final = 5.0
_HANG_UP_LIMIT_S: Final = 2.0
# Beam's worker threads that raise where a connection is lost.
_CONNECTED: Final = ("read_state", "read_grpc_client_inputs", "run_worker_")

MISSING: Final = (
    "Prism, the streaming engine, is not installed: run `statecast doctor --fix`, "
    "or name a binary in STATECAST_PRISM"
)

# Reads until the owner's end of the pipe closes, which its death does too, however it dies.
_WATCH: Final = 'read -r _; kill "$1"'


class PrismServer:
    """A Prism of one's own, on a free port, for as long as the ``with`` block lasts.

    It runs in its own session, so that a Ctrl-C in the terminal reaches the job alone, and the job can end
    cleanly. It ends with the block, and with the process that started it even when that is killed.

    Args:
        log: file that Prism writes warnings and errors to; its folder is made.

    Raises:
        EngineError: on entry, where Prism is missing or does not start.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self.endpoint = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._block = contextlib.ExitStack()

    @property
    def pid(self) -> int | None:
        """Process id of the running Prism, or None."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def __enter__(self) -> Self:
        binary = find_prism()
        if binary is None:
            raise EngineError(MISSING)
        end_orphans()
        self._block.enter_context(_lost_connections_are_silent())
        try:
            self._start(binary)
            self._await_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self, binary: Path) -> None:
        port = _free_port()
        self.endpoint = f"localhost:{port}"
        command = [
            str(binary),
            f"--job_port={port}",
            "--serve_http=false",
            "--log_kind=text",
            "--log_level=warn",
        ]
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as error:
            raise EngineError(f"Prism ({binary}) cannot be started: {error}") from error
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "prism-watcher", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _record(self._process.pid)

    def _await_ready(self) -> None:
        assert self._process is not None
        address = ("127.0.0.1", int(self.endpoint.rpartition(":")[2]))
        deadline_s = time.monotonic() + _START_LIMIT_S
        while self._process.poll() is None and time.monotonic() < deadline_s:
            with contextlib.suppress(OSError), socket.create_connection(address, timeout=1.0):
                return
            time.sleep(0.02)
        ended = self._process.poll()
        what = "does not answer" if ended is None else f"ended at once with exit code {ended}"
        raise EngineError(f"Prism {what}: {_last_line(self.log)} (log: {self.log})")

    def _stop(self) -> None:
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
        self._block.close()


@contextlib.contextmanager
def _lost_connections_are_silent() -> Iterator[None]:
    """Keep Beam's worker threads from printing a stack trace each where their Prism has hung up on them.

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


def prism_options(endpoint: str, *, streaming: bool = True) -> list[str]:
    """Beam's pipeline options to run on the Prism at ``endpoint``, with the workers in this process.

    Args:
        endpoint: ``PrismServer.endpoint``.
        streaming: False for a pipeline whose sources are bounded.
    """
    options = [
        "--runner=PrismRunner",
        f"--job_endpoint={endpoint}",
        "--environment_type=LOOPBACK",
        # Without it Prism splits a slow bundle in the middle of a key and starts a second bundle of that
        # key beside it: rows are lost or doubled. tests/laws/test_prism_stress.py holds it.
        "--experiments=prism_disable_sdf_split",
        # No --max_cache_memory_usage_mb: Prism hands out no cache tokens, so nothing would be found in the
        # workers' state cache by the next bundle, and Beam weighs what it puts in at 1 to 2 ms a value.
    ]
    return [*options, "--streaming"] if streaming else options


def _record_path(pid: int) -> Path:
    return cache_dir() / "run" / f"prism-{pid}.json"


def _record(pid: int) -> None:
    """Write down whose Prism ``pid`` is; start times make a process id that is used again another one."""
    with contextlib.suppress(OSError, psutil.Error):  # the watcher does without
        path = _record_path(pid)
        path.parent.mkdir(parents=True, exist_ok=True)
        owner = os.getpid()
        path.write_text(json.dumps({"prism": [pid, _started(pid)], "owner": [owner, _started(owner)]}))


def _started(pid: int) -> float | None:
    """Start of process ``pid`` in seconds since 1970, or None where there is none."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def end_orphans() -> list[int]:
    """End every Prism whose owner has died, and no other process; their process ids."""
    ended = []
    for path in (cache_dir() / "run").glob("prism-*.json"):
        try:
            record = json.loads(path.read_text())
            prism, prism_started = record["prism"]
            owner, owner_started = record["owner"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # being written, or not ours to judge
        if _started(owner) == owner_started:
            continue
        if prism_started is not None and _started(prism) == prism_started:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(prism, signal.SIGKILL)
                ended.append(prism)
        path.unlink(missing_ok=True)
    return ended


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            return lines[-1].strip()
    return "its log is empty"


def main(arguments: list[str]) -> int:
    """``setup`` finds or installs Prism; ``fetch FOLDER`` is the step of it that needs a time limit."""
    match arguments:
        case ["setup"]:
            try:
                print(f"Prism {beam_version()}: {setup_prism()}")
            except EngineError as error:
                print(f"error: {error}", file=sys.stderr)
                return error.exit_code
            except KeyboardInterrupt:
                print("interrupted: nothing was installed", file=sys.stderr)
                return 130
        case ["fetch", folder]:
            try:
                print(fetch_release(folder))
            except (OSError, RuntimeError, ValueError) as error:
                print(error)
                return 1
        case _:
            print("usage: python -m pipelines.runners.prism setup", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
