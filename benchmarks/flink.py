"""Measure the unpaced rate on a real Flink cluster: ``python -m benchmarks.flink`` (needs ``make java``).

A file of rows of 10,000 or 1,000,000 series is streamed with one or two task managers and a pool of workers.
A rate counts from the first rows that a shard has read to the last forecast, because most of the start-up
time is Java's. All processes run on this machine, so two task managers share its cores. The last line of the
output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import fleet, machine
from benchmarks.fleet import Fleet
from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import StreamJob
from pipelines.runners import flink
from pipelines.runners.base import FlinkSettings
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.reader import request_stop
from pipelines.sources.replay import ReplaySource
from schemas.errors import EngineError
from tests.cluster.flink import FlinkCluster

_SIZES = ((10_000, 200), (1_000_000, 4))  # series, windows
_HEAP_MB = 1024  # the heap holds one window of the large fleet in transit
_ROWS_AT_ONCE = 1_000_000
# a short interval, because a run with 10,000 series ends in less than half a minute
_CHECKPOINT_EVERY_MS = 2_000


@dataclass
class _Watch:
    """An observer of a running job that records the time of its first rows and Flink's checkpoint summary.

    It also asks the job to stop when the job has read all rows.
    """

    master: str
    job: StreamJob
    rows: int
    began_s: float = 0.0
    checkpoints: dict[str, Any] | None = None

    def look(self, numbers: JobNumbers) -> None:
        if numbers.counts.rows_in and not self.began_s:
            self.began_s = time.monotonic()
        with suppress(EngineError):
            for job, (_, state) in flink.jobs(self.master).items():
                if state == "RUNNING":
                    answer = flink.ask(self.master, f"/jobs/{job}/checkpoints")
                    if answer["counts"]["completed"]:
                        self.checkpoints = answer["summary"]
        if numbers.counts.rows_in >= self.rows:
            request_stop(self.job.stop_file)


def measure(folder: Path, task_managers: int, series: int, windows: int) -> dict[str, float]:
    """Run a stream on a new cluster; return its rate, checkpoint sizes and times, and memory by name."""
    folder.mkdir(parents=True)
    rows = Fleet(series).write(folder / "rows.parquet", windows)
    with (
        FlinkCluster.start(folder / "cluster", task_managers, _HEAP_MB) as cluster,
        machine.MemorySampler() as memory,
    ):
        source = ReplaySource(
            (str(rows),), fleet.INPUT, fleet.FREQ, manifest_folder=folder / "out/state",
            windows_per_step=max(_ROWS_AT_ONCE // series, 1),
        )  # fmt: skip
        job = StreamJob(
            fleet.forecaster(), source, folder / "out", runner="flink",
            flink=FlinkSettings(cluster.master, cluster.workers),
            beam_options=(f"--checkpointing_interval={_CHECKPOINT_EVERY_MS}",),
        )  # fmt: skip
        watch = _Watch(cluster.master, job, series * windows)
        outcome = run_stream(job, watch.look)
    written_s = max(path.stat().st_mtime for path in (folder / "out/forecasts").iterdir())
    seconds = written_s - time.time() + time.monotonic() - watch.began_s
    assert outcome.counts.missing == 0, outcome.counts
    assert watch.checkpoints is not None, "Flink completed no checkpoint"
    return {
        "rate": outcome.counts.series_steps / seconds,
        "checkpoint_bytes": watch.checkpoints["state_size"]["max"],
        "checkpoint_p50_ms": watch.checkpoints["end_to_end_duration"]["p50"],
        "checkpoint_most_ms": watch.checkpoints["end_to_end_duration"]["max"],
        "snapshot_ms": outcome.numbers.snapshot_ms,
        "rss_most_mb": memory.most(),
    }


def main() -> int:
    """Print the result of each run, and the JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flink", description=__doc__)
    parser.add_argument(
        "--series", type=int, choices=[size for size, _ in _SIZES], help="run only this size of fleet"
    )
    parser.add_argument(
        "--task-managers", type=int, choices=(1, 2), help="run only this number of task managers"
    )
    chosen = parser.parse_args()
    print(machine.described(), flush=True)
    found = {}
    for series, windows in (size for size in _SIZES if chosen.series in (None, size[0])):
        for task_managers in (1, 2) if chosen.task_managers is None else (chosen.task_managers,):
            with tempfile.TemporaryDirectory(prefix="statecast-flink-") as folder:
                one = measure(Path(folder) / "run", task_managers, series, windows)
            found[f"{series}x{task_managers}"] = {name: round(value) for name, value in one.items()}
            print(f"{series:>9,} series, {task_managers} task managers: {one}", flush=True)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
