"""Run `statecast` commands as a user does, write a stream's input files, and read the stream's counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.sinks import numbers
from pipelines.sinks.latency import Histogram
from tests.lifecycle import inputs

ROOT = Path(__file__).parents[2]
PATIENCE_S = 600.0
_FIRST_DAYS = 40  # the first days are written quickly, because the retraining waits for their rows
_FAST_S, _SLOW_S = 0.1, 1.5  # minimum seconds between writing the files of two consecutive days
# A day's file is written only while fewer days than this are unread, so a slow machine streams fewer days.
_MOST_UNREAD_DAYS = 2


@dataclass
class Desk:
    """The folder in which all commands run.

    Attributes:
        folder: holds data, job file, MLflow store and the output of the stream.
    """

    folder: Path

    def run(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run a command with ``--json`` to its end, and return the last object that it printed.

        Raises:
            SystemExit: the command ended with another exit code.
        """
        print(f"statecast {' '.join(arguments)}", flush=True)
        ended = subprocess.run(
            _command(*arguments), cwd=self.folder, env=_environment(), capture_output=True, text=True
        )
        if ended.returncode != code:
            raise SystemExit(
                f"statecast {arguments[0]} ended with exit code {ended.returncode} and not {code}: "
                f"{ended.stderr}"
            )
        found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        return found

    def stream(self, *arguments: str) -> Stream:
        """Start a stream that watches the folder ``incoming``."""
        (self.folder / "incoming").mkdir()
        command = _command("stream", "incoming", "--watch", "--output", "live", *arguments)
        with (self.folder / "stream.log").open("wb") as log, (self.folder / "stream.json").open("wb") as out:
            process = subprocess.Popen(
                command, cwd=self.folder, env=_environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=log
            )
        return Stream(self.folder, process)


class Stream:
    """A running stream, and a thread that writes the rows into its watched folder, day by day."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self._folder, self._process = folder, process
        self._is_stopping = threading.Event()
        self._feeder = threading.Thread(target=self._feed)
        self.days = inputs.HISTORY_DAYS
        self._feeder.start()

    def _feed(self) -> None:
        first_days = inputs.HISTORY_DAYS + _FIRST_DAYS
        while not self._is_stopping.wait(_FAST_S if self.days < first_days else _SLOW_S):
            if self.days - self._days_read() < _MOST_UNREAD_DAYS:
                inputs.put_day(self._folder / "incoming", self.days)
                self.days += 1

    def _days_read(self) -> int:
        """Return the number of history days plus the number of complete days that the stream has read."""
        return inputs.HISTORY_DAYS + self._numbers().counts.rows_in // (24 * inputs.SERIES)

    def wait_for_days(self, more: int) -> None:
        """Wait until the stream has read all days written before this call, and ``more`` further days."""
        wanted = self.days + more
        self._wait(lambda: self._days_read() >= wanted)

    def wait_for_version(self, model_version: str) -> None:
        """Wait until every shard has changed to ``model_version``."""
        self._wait(lambda: self._numbers().as_json(0.0).get("model_versions") == [model_version])

    def wait_for_refusal(self, version: str) -> None:
        """Wait until the stream has reported that it refuses a version."""
        self._wait(lambda: f"{version} " in self._log() and "is refused" in self._log())

    def _log(self) -> str:
        return (self._folder / "stream.log").read_text()

    def latency(self) -> Histogram:
        """Return the histogram of the batch latencies that all shards have recorded so far."""
        return self._numbers().latency

    def _numbers(self) -> numbers.JobNumbers:
        return numbers.JobNumbers.of(numbers.read_shards(self._folder / "live"))

    def stop(self) -> dict[str, Any]:
        """Stop writing files, stop the stream when it has read them all, and return its JSON summary."""
        self.stop_feeder()
        self._wait(lambda: self._days_read() >= self.days)
        (self._folder / "live" / ".stop").touch()
        self._process.wait(PATIENCE_S)
        found: dict[str, Any] = json.loads((self._folder / "stream.json").read_text().splitlines()[-1])
        return found

    def stop_feeder(self) -> None:
        """Stop the thread that writes files into the watched folder."""
        self._is_stopping.set()
        self._feeder.join()

    def kill(self) -> None:
        """Stop the feeder, and end the stream at once if it still runs."""
        self.stop_feeder()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            if self._process.poll() is not None:
                raise SystemExit(f"the stream has ended: see {self._folder / 'stream.log'}")
            if time.monotonic() > deadline_s:
                raise SystemExit(f"the stream made too little progress: see {self._folder / 'stream.log'}")
            time.sleep(0.1)


def difference(later: Histogram, earlier: Histogram) -> Histogram:
    """Return the latencies that only the later histogram contains."""
    buckets = {bucket: count - earlier.buckets.get(bucket, 0) for bucket, count in later.buckets.items()}
    return Histogram({bucket: count for bucket, count in buckets.items() if count}, 0.0)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", *arguments, "--config", "job.toml", "--json"]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
