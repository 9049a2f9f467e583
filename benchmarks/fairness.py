"""Measure how much a job slows down beside two jobs of the same kind: ``python -m benchmarks.fairness``.

The jobs are a training, an evaluation and a stream of the weather example, each one command. Each job runs
alone first, then three of the same kind run at once. On two cores, each of three jobs gets two thirds of a
core, so a fair job takes 1.5 times as long as alone; it takes many times as long if threads spin while they
wait for work. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from benchmarks import machine
from benchmarks.targets import line
from pipelines.examples.weather import write_example

_TOGETHER = 3
_MOST_TIMES = 4.0  # target: a job beside two others takes at most 4 times as long as alone
_STATECAST = (sys.executable, "-m", "pipelines.cli")
_PROGRESS_EVERY_S = 10.0
# A stream steps about 60 windows a second on one core, so streaming the whole year would take minutes.
_STREAM_HOURS = {"quick": 240, "full": 2_400}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="train one epoch, stream ten days")
    parser.add_argument("--limit", type=float, default=900.0, help="time limit of a set of jobs, in seconds")
    chosen = parser.parse_args(arguments)
    print(machine.described(), flush=True)
    found: dict[str, object] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="statecast-fairness-") as place:
            found |= _measured(Path(place), chosen.quick, chosen.limit)
    except JobError as error:
        found["error"] = str(error)
    print(json.dumps(found))
    return 1 if "error" in found else 0


class JobError(Exception):
    """A job failed, or did not end within the time limit."""


@dataclass(frozen=True)
class Job:
    """One command, with a file for its output.

    The output does not go into a pipe, because a full pipe that is not read would block the command.
    """

    name: str
    command: Sequence[str]
    log: Path

    def last_lines(self) -> str:
        """Return the last five lines of the job's output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])


def run_jobs(jobs: Sequence[Job], limit_s: float) -> list[float]:
    """Run jobs at the same time and return the wall-clock seconds that each took.

    No job is running when this function returns or raises.

    Raises:
        JobError: a job failed, or did not end within ``limit_s``.
    """
    began_s = time.monotonic()
    next_line_s = began_s + _PROGRESS_EVERY_S
    running: dict[int, subprocess.Popen[bytes]] = {}
    took: dict[int, float] = {}
    try:
        for number, job in enumerate(jobs):
            with job.log.open("wb") as log:
                running[number] = subprocess.Popen(
                    job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                )
        while running:
            now_s = time.monotonic()
            for number in [number for number, process in running.items() if process.poll() is not None]:
                took[number] = now_s - began_s
                if code := running.pop(number).returncode:
                    raise JobError(f"{jobs[number].name}: exit code {code}: {jobs[number].last_lines()}")
            if running and now_s - began_s > limit_s:
                names = ", ".join(jobs[number].name for number in running)
                raise JobError(f"{names}: no end after {limit_s:g} s; raise --limit on a slower machine")
            if running and now_s > next_line_s:
                next_line_s += _PROGRESS_EVERY_S
                names = ", ".join(jobs[number].name for number in running)
                print(f"  {now_s - began_s:.0f} s: {names} still running", flush=True)
            time.sleep(0.05)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return [took[number] for number in range(len(jobs))]


def _measured(folder: Path, quick: bool, limit_s: float) -> dict[str, object]:
    """Measure each kind of job; return its seconds alone and beside two others, by kind."""
    data = write_example("weather", folder / "data")
    rows = pl.read_parquet(data)
    hours = _STREAM_HOURS["quick" if quick else "full"]
    streamed = folder / "streamed.parquet"
    begin = pl.col("timestamp").min()
    rows.filter(pl.col("timestamp") < begin + pl.duration(hours=hours)).write_parquet(streamed)
    found: dict[str, object] = {}
    for kind in ("train", "evaluate", "stream"):
        path = streamed if kind == "stream" else data
        alone_s = run_jobs([_job(kind, folder, path, "alone", quick)], limit_s)[0]
        print(f"{kind}: {alone_s:.1f} s alone", flush=True)
        several = [_job(kind, folder, path, str(number), quick) for number in range(_TOGETHER)]
        beside_s = statistics.median(run_jobs(several, limit_s))
        print(f"{kind}: {beside_s:.1f} s beside two others", flush=True)
        line(f"{kind}, beside two / alone", beside_s / alone_s, "at most", _MOST_TIMES)
        found[kind] = {"alone_s": round(alone_s, 1), "beside_s": round(beside_s, 1)}
    return found


def _job(kind: str, folder: Path, data: Path, place: str, quick: bool) -> Job:
    """Return a job of a kind; see `_command`."""
    name = f"{kind}-{place}"
    return Job(name, (*_STATECAST, *_command(kind, folder, data, name, quick)), folder / f"{name}.log")


def _command(kind: str, folder: Path, data: Path, name: str, quick: bool) -> list[str]:
    """Return the command line of a job; jobs share only their input and the trained model."""
    store = f"--tracking-uri=sqlite:///{folder / name}.db"
    epochs = f"training.epochs={1 if quick else 12 if kind == 'train' else 4}"
    if kind == "train":
        return [kind, str(data), "--end=2013-09-01", "--register=weather", store, "--set", epochs]
    if kind == "evaluate":
        rows = ["--train-rows=4000", "--test-rows=5000:6000", "--horizons=1,24"]
        return [kind, str(data), "--freq=1h", *rows, store, "--set", epochs]
    trained = f"--tracking-uri=sqlite:///{folder / 'train-alone'}.db"
    output = f"--output={folder / name}"
    return [kind, str(data), "--model=weather", trained, output, "--runner=in-process"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
