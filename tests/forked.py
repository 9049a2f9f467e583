"""Processes that tests start as forks of a server, which has imported the heavy packages (`fork_server`)."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TextIO

ROOT: Final = Path(__file__).parents[1]


class ForkedProcess:
    """A Python process that leads its own session, with the methods of `subprocess.Popen` that tests use.

    Its warnings are those of ``python -W error::ResourceWarning``.

    Attributes:
        args: the arguments of Python.
        pid: process id.
        returncode: exit code, or the negative number of the signal that ended the process; None until a
            method has found that the process has ended.
        stdout, stderr: readers of the output of the process; None if no pipe was requested.

    Args:
        arguments: ``-m`` and a module, or ``-c`` and code; then the arguments of the program.
        ignoring: signals that are ignored when the program begins, as under some supervisors. The process
            otherwise has the signal handlers of a process in a terminal.
        cwd: working directory.
        env: environment variables; None takes those of this process.
        stdout, stderr: as for `subprocess.Popen`: PIPE, DEVNULL, or None for the stream of this process.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        ignoring: Sequence[signal.Signals] = (),
        *,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        self.args = arguments
        self.returncode: int | None = None
        self._status, theirs = socket.socketpair()
        self._reads: list[Future[str]] = []
        with open(os.devnull, "r+b") as nothing:
            files = [nothing.fileno()]
            self.stdout, self.stderr = (
                _open_stream(kind, number, files) for number, kind in ((1, stdout), (2, stderr))
            )
            socket.send_fds(_server(), [b"."], [*files, theirs.fileno()])
        theirs.close()
        for file, stream in zip(files[1:], (self.stdout, self.stderr), strict=True):
            if stream is not None:
                os.close(file)
        request = {
            "arguments": arguments, "ignoring": ignoring, "cwd": str(cwd), "env": dict(env or os.environ),
        }  # fmt: skip
        self._status.sendall(json.dumps(request).encode() + b"\n")
        self.pid = self._receive()

    def _receive(self) -> int:
        answer = self._status.recv(4)
        assert len(answer) == 4, "the fork server has ended"
        return int.from_bytes(answer, signed=True)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process ends, and return its exit code."""
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                self.returncode = self._receive()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
            self._status.close()
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit code; None if the process still runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process with SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM to the process, unless it has ended."""
        self.send_signal(signal.SIGTERM)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait until the process ends; return the unread text of stdout and stderr ("" without a pipe)."""
        if not self._reads:
            with_pipes = ThreadPoolExecutor(2)
            self._reads = [with_pipes.submit(_read_all, stream) for stream in (self.stdout, self.stderr)]
            with_pipes.shutdown(wait=False)
        self.wait(timeout)
        out, err = (read.result() for read in self._reads)
        return out, err

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()


def _open_stream(kind: int | None, number: int, files: list[int]) -> TextIO | None:
    """Append to ``files`` the file descriptor for a new process's stdout (``number`` 1) or stderr (2).

    Returns:
        A reader of the stream if ``kind`` is PIPE, otherwise None.
    """
    if kind != subprocess.PIPE:
        files.append(number if kind is None else files[0])
        return None
    reader, writer = os.pipe()
    files.append(writer)
    return open(reader)


def _read_all(stream: TextIO | None) -> str:
    if stream is None:
        return ""
    with stream:
        return stream.read()


@cache
def _server() -> socket.socket:
    """Start the fork server; return the socket for sending it the file descriptors of each new process.

    The server ends when the socket is closed.
    """
    ours, theirs = socket.socketpair()
    with theirs, tempfile.TemporaryFile() as unread:
        server = subprocess.Popen(
            [sys.executable, "-W", "error::ResourceWarning", "-m", "tests.fork_server", str(theirs.fileno())],
            pass_fds=[theirs.fileno()], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL, stdout=unread, stderr=unread, start_new_session=True,
        )  # fmt: skip

    def end() -> None:
        ours.close()
        server.wait()

    atexit.register(end)
    return ours
