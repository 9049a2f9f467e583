"""A stream as a supervisor sees it: the same command, started again whenever it dies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pipelines.sinks import numbers

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240.0
SNAPSHOT_EVERY_S = 0.5


@dataclass
class Stream:
    """One command line, and the lives that it has had.

    Attributes:
        arguments: of ``statecast stream``, without ``--resume``.
        output: its output folder.
        python: the interpreter that runs it.
        more: options of the next life.
        recovery_s: of each life, and of each Prism after a kill, seconds to its first progress.
        longest_s: seconds that the longest life took, from its start or the kill of its Prism to the next
            kill.
    """

    arguments: list[str]
    output: Path
    python: str = sys.executable
    more: list[str] = field(default_factory=list)
    recovery_s: list[float] = field(default_factory=list)
    longest_s: float = 0.0
    _process: subprocess.Popen[bytes] | None = None
    _lost: str = ""

    @staticmethod
    def of_flights(watched: Path, model: Path, output: Path, python: str = sys.executable) -> Stream:
        """The stream of a folder, which is made, that files of `inputs.write_flights` are put into."""
        watched.mkdir(exist_ok=True)
        options = [str(watched), "--watch", "--model", str(model), "--shards", "2"]
        options += ["--set", "data.event_id=event_id", "--set", "stream.poll_s=0.2"]
        return Stream(options, output, python)

    def start(self) -> subprocess.Popen[bytes]:
        """Starts the command: the same one every time."""
        command = [self.python, "-m", "pipelines.cli", "stream", *self.arguments, *self.more]
        command += ["--resume", "--json"]
        command += ["--output", str(self.output), "--set", f"stream.snapshot_every_s={SNAPSHOT_EVERY_S}"]
        self.output.mkdir(parents=True, exist_ok=True)
        with (self.output.parent / f"{self.output.name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def rows_in(self) -> int:
        """Rows that the shards have said they took in."""
        return numbers.JobNumbers.of(numbers.read_shards(self.output)).counts.rows_in

    def run(self, is_done: Callable[[], bool]) -> None:
        """A life without a kill: to its own end, or asked to stop once it ``is_done``."""
        process = self.start()
        try:
            deadline_s, asked = time.monotonic() + PATIENCE_S, False
            while process.poll() is None:
                if time.monotonic() > deadline_s:
                    raise SystemExit(f"{self.output}: does not come to its end: see {self.output}.log")
                if not asked and is_done():
                    process.send_signal(signal.SIGINT)
                    asked = True
                time.sleep(0.1)
        finally:
            _kill([process.pid])
        if process.returncode:
            raise SystemExit(f"{self.output}: ended with {process.returncode}: see {self.output}.log")

    def run_until_quiet(self, rows_in: int) -> int:
        """A life until nothing has come for a while, and ``rows_in`` rows have; the rows that had."""
        last: list[float] = [0, time.monotonic()]

        def is_quiet() -> bool:
            now = self.rows_in()
            if now != last[0]:
                last[:] = [now, time.monotonic()]
            has_come = now > 0 and now >= rows_in
            return has_come and time.monotonic() - last[1] > 15  # a broken file waits for 10

        self.run(is_quiet)
        return int(last[0])

    def live_and_lose(self, chance: random.Random, feed: Callable[[bool], None] = lambda needs: None) -> str:
        """A life in which the pipeline, its Prism or both are killed, at a random moment after some progress.

        Where the pipeline is killed, the next call starts it again; where Prism is, it goes on by itself.

        Args:
            chance: decides what is killed, and when.
            feed: called again and again while it lives, with whether there is no progress yet.

        Returns:
            What was killed; "" if it had come to its own end before.
        """
        began_s, reached = time.monotonic(), self._files()
        process = self._process = self._process or self.start()

        def has_progress() -> bool:
            if self._files() > reached:
                return True
            feed(True)
            return False

        if not _until(has_progress, process):
            # It goes on by itself a few times only, and then says that it does not.
            gave_up, self._process = self._lost == "prism" and process.poll() not in (0, None), None
            return self.live_and_lose(chance, feed) if gave_up else self._own_end(process)
        self.recovery_s.append(time.monotonic() - began_s)
        until_s = time.monotonic() + chance.random() * 2.0
        while time.monotonic() < until_s:
            feed(False)
            time.sleep(0.02)
        prisms = [child.pid for child in _children(process.pid) if "prism" in child.name()]
        if chance.random() < 0.3:  # in the midst of a snapshot
            _until(lambda: any((self.output / "state").glob(".*.tmp")), process, pause_s=0.0, limit_s=5.0)
        self._lost = chance.choice(("pipeline", "prism", "both"))
        if process.poll() is not None:
            return self._own_end(process)
        _kill({"pipeline": [process.pid], "prism": prisms, "both": [process.pid, *prisms]}[self._lost])
        self.longest_s = max(self.longest_s, time.monotonic() - began_s)
        if self._lost != "prism":
            process.wait(60)
            self._process = None
        orphans = psutil.wait_procs([psutil.Process(pid) for pid in prisms if psutil.pid_exists(pid)], 30)[1]
        if orphans:
            raise SystemExit(f"a Prism is left behind: {orphans}")
        return self._lost

    def _own_end(self, process: subprocess.Popen[bytes]) -> str:
        if process.poll() is None:
            raise SystemExit(f"{self.output}: no progress in {PATIENCE_S:.0f} s: see {self.output}.log")
        if process.returncode:
            raise SystemExit(f"{self.output}: ended with {process.returncode}: see {self.output}.log")
        self._process = None
        return ""

    def end(self) -> None:
        """Kills what is left of the last life, with its Prism."""
        if self._process is not None:
            _kill([self._process.pid, *(child.pid for child in _children(self._process.pid))])
            self._process.wait(60)
            self._process = None

    def _files(self) -> int:
        """When the last file of forecasts was written; forecasts are progress, whatever else is."""
        found = [
            path.stat().st_mtime_ns for path in (self.output / "forecasts").glob("[!.]*") if path.exists()
        ]
        return max(found, default=0)


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _until(
    condition: Callable[[], bool],
    process: subprocess.Popen[bytes],
    pause_s: float = 0.02,
    limit_s: float = PATIENCE_S,
) -> bool:
    """Waits until something is so; whether it came to be while the process lived."""
    deadline_s = time.monotonic() + limit_s
    while process.poll() is None and time.monotonic() < deadline_s:
        if condition():
            return True
        time.sleep(pause_s)
    return False


def _kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
