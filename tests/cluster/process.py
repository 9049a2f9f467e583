"""A server of the test cluster that any process can stop, not only the process that started it.

Its process id and start time are stored, so that a later process with the same id is never stopped.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from forecaster.process_start import started_s
from schemas.errors import EngineError


class Server:
    """A process that outlives the process that started it; its log and its id are in a folder.

    Args:
        name: the name of the server and of its two files.
        folder: the folder of `NAME.pid` and `NAME.log`.
        command: program and arguments.
        env: the environment of the process; None for the environment of this process.
    """

    def __init__(
        self, name: str, folder: Path, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.folder = name, folder
        self.command, self.env = list(command), env

    @property
    def log(self) -> Path:
        """Return the path of the log, which has the output of the process."""
        return self.folder / f"{self.name}.log"

    @property
    def record(self) -> Path:
        """Return the path of the file with the id and the start time of the process."""
        return self.folder / f"{self.name}.pid"

    @property
    def process(self) -> psutil.Process | None:
        """Return the process; None if it does not run, or if its id now belongs to another process."""
        with suppress(OSError, ValueError, psutil.Error):
            pid, recorded_s = json.loads(self.record.read_text())
            if recorded_s is not None and started_s(pid) == recorded_s:
                return psutil.Process(pid)
        return None

    def start(self, is_ready: Callable[[], bool], limit_s: float = 90.0) -> None:
        """Start the process, and wait until it is ready.

        Raises:
            EngineError: the process ended, or was not ready in time and was killed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                self.command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip
        self.record.write_text(json.dumps([child.pid, started_s(child.pid)]))
        # Popen would warn that the child still runs, but the child must outlive this process.
        child.returncode = 0
        until_s = time.monotonic() + limit_s
        while not is_ready():
            if self.process is None or time.monotonic() > until_s:
                self.kill()
                raise EngineError(f"{self.name} did not start: see {self.log}")
            time.sleep(0.1)

    def stop(self, limit_s: float = 20.0) -> None:
        """Stop the process and its children with SIGTERM; kill a process that still runs after the limit."""
        self._end(signal.SIGTERM, limit_s)

    def kill(self) -> None:
        """Kill the process and its children with SIGKILL."""
        self._end(signal.SIGKILL, 10.0)

    def _end(self, how: signal.Signals, limit_s: float) -> None:
        if (process := self.process) is not None:
            family = [process]
            with suppress(psutil.Error):
                family += process.children(recursive=True)
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.send_signal(how)
            _, alive = psutil.wait_procs(family, limit_s)
            for member in alive:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            psutil.wait_procs(alive, 10.0)
        self.record.unlink(missing_ok=True)


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Return True if a process listens on a port of the loopback interface."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False
