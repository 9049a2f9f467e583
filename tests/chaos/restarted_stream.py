"""Run a stream, kill its pipeline, its Prism or both, and start a killed pipeline again."""

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
    """A stream that is started several times; only the options in ``more`` may differ between starts.

    Attributes:
        arguments: arguments of ``statecast stream``, without ``--resume``.
        output: the output folder.
        python: the interpreter that runs the command.
        more: further options of the next start.
        victims: a kill hits one of these, see `run_until_kill`.
        recovery_s: seconds from each start or kill of Prism to the first new file of forecasts.
        longest_s: the longest time, in seconds, from a start or a kill of Prism to the next kill.
    """

    arguments: list[str]
    output: Path
    python: str = sys.executable
    more: list[str] = field(default_factory=list)
    victims: tuple[str, ...] = ("pipeline", "prism", "both")
    recovery_s: list[float] = field(default_factory=list)
    longest_s: float = 0.0
    _process: subprocess.Popen[bytes] | None = None
    _lost: str = ""

    @staticmethod
    def of_flights(watched: Path, model: Path, output: Path, python: str = sys.executable) -> Stream:
        """Make the folder ``watched``; return a stream that watches it for `inputs.write_flights` files."""
        watched.mkdir(exist_ok=True)
        options = [str(watched), "--watch", "--model", str(model), "--shards", "2"]
        options += ["--set", "data.event_id=event_id", "--set", "stream.poll_s=0.2"]
        return Stream(options, output, python)

    def start(self) -> subprocess.Popen[bytes]:
        """Start ``statecast stream``; only the options in ``more`` may differ between starts."""
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
        """Return the number of rows that the shards report as read."""
        return numbers.JobNumbers.of(numbers.read_shards(self.output)).counts.rows_in

    def run(self, is_done: Callable[[], bool]) -> None:
        """Run the stream until it ends; request its stop as soon as ``is_done`` returns True."""
        process = self.start()
        try:
            deadline_s, asked = time.monotonic() + PATIENCE_S, False
            while process.poll() is None:
                if time.monotonic() > deadline_s:
                    raise SystemExit(
                        f"{self.output}: the stream did not end in {PATIENCE_S:.0f} s: see {self.output}.log"
                    )
                if not asked and is_done():
                    process.send_signal(signal.SIGINT)
                    asked = True
                time.sleep(0.1)
        finally:
            _kill([process.pid])
        if process.returncode:
            raise SystemExit(
                f"{self.output}: the stream ended with exit code {process.returncode}: see {self.output}.log"
            )

    def run_until_quiet(self, rows_in: int) -> int:
        """Run the stream until it has read at least ``rows_in`` rows and then no row for 15 s.

        Return the number of rows that it has read.
        """
        last: list[float] = [0, time.monotonic()]

        def is_quiet() -> bool:
            now = self.rows_in()
            if now != last[0]:
                last[:] = [now, time.monotonic()]
            is_complete = now > 0 and now >= rows_in
            # Wait for 15 s, because an unreadable file counts as broken only 10 s after its last change.
            return is_complete and time.monotonic() - last[1] > 15

        self.run(is_quiet)
        return int(last[0])

    def run_until_kill(
        self,
        rng: random.Random,
        feed: Callable[[bool], None] = lambda waits_for_input: None,
        is_due: Callable[[], bool] | None = None,
    ) -> str:
        """Run the stream and kill the pipeline, its Prism or both, after some progress.

        If the pipeline is killed, the next call starts the pipeline again; if only Prism is killed, the
        pipeline restarts Prism.

        Args:
            rng: the random generator that determines what is killed, and when.
            feed: called repeatedly during the run; its argument is True until the stream makes progress.
            is_due: returns whether the moment of the kill has come; None kills at a random moment.

        Returns:
            What was killed; "" if the stream ended by itself.
        """
        began_s, reached = time.monotonic(), self._newest_forecasts_ns()
        process = self._process = self._process or self.start()

        def has_progress() -> bool:
            if self._newest_forecasts_ns() > reached:
                return True
            feed(True)
            return False

        if not _until(has_progress, process):
            # The pipeline restarts Prism only a few times, then ends with an error: start the pipeline again.
            gave_up, self._process = self._lost == "prism" and process.poll() not in (0, None), None
            return self.run_until_kill(rng, feed, is_due) if gave_up else self._own_end(process)
        self.recovery_s.append(time.monotonic() - began_s)
        until_s = time.monotonic() + rng.random() * 2.0

        def has_come() -> bool:
            feed(False)
            return time.monotonic() > until_s if is_due is None else is_due()

        if not _until(has_come, process) and is_due is not None:
            return self._own_end(process)
        engines = [child for child in _children(process.pid) if "prism" in child.name()]
        prisms = [engine.pid for engine in engines]
        if is_due is None and rng.random() < 0.3:  # wait until a snapshot is being written
            _until(lambda: any((self.output / "state").glob(".*.tmp")), process, pause_s=0.0, limit_s=5.0)
        self._lost = rng.choice(self.victims)
        if process.poll() is not None:
            return self._own_end(process)
        _kill({"pipeline": [process.pid], "prism": prisms, "both": [process.pid, *prisms]}[self._lost])
        self.longest_s = max(self.longest_s, time.monotonic() - began_s)
        if self._lost != "prism":
            process.wait(60)
            self._process = None
        # Use `psutil.wait_procs`, because it raises no error for a process that has just ended.
        orphans = psutil.wait_procs(engines, 30)[1]
        if orphans:
            raise SystemExit(f"Prism still runs 30 s after the kill: {orphans}")
        return self._lost

    def _own_end(self, process: subprocess.Popen[bytes]) -> str:
        if process.poll() is None:
            raise SystemExit(
                f"{self.output}: in {PATIENCE_S:.0f} s, the stream wrote no new forecasts or did not reach "
                f"the moment of the kill: see {self.output}.log"
            )
        if process.returncode:
            raise SystemExit(
                f"{self.output}: the stream ended with exit code {process.returncode}: see {self.output}.log"
            )
        self._process = None
        return ""

    def end(self) -> None:
        """Kill the pipeline of the last run and its Prism, if they still run."""
        if self._process is not None:
            _kill([self._process.pid, *(child.pid for child in _children(self._process.pid))])
            self._process.wait(60)
            self._process = None

    def _newest_forecasts_ns(self) -> int:
        """Return the time of the newest file of forecasts (ns since 1970): a newer file shows progress."""
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
    """Wait until a condition is true; return False if the process ends first or the time runs out."""
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
