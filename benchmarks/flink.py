"""The unpaced rate on a real Flink session cluster: ``python -m benchmarks.flink`` (Java: ``make java``).

A file of rows is streamed with one task manager and with two, of 10,000 series and of 1,000,000; a pool of
workers steps them. Rates count from the first rows that a shard took in to the last forecast, since most of
the start is Java's. All of it runs on this machine, so that two task managers have its cores to share.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import fleet, machine
from benchmarks.fleet import Fleet
from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import StreamJob
from pipelines.runners import flink
from pipelines.runners.base import FlinkSettings
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.reader import ask_to_stop
from pipelines.sources.replay import ReplaySource
from schemas.errors import EngineError
from tests.cluster.flink import FlinkCluster

_SIZES = ((10_000, 200), (1_000_000, 4))  # series, windows
_CHECKPOINT_EVERY_MS = 5_000


@dataclass
class _Watch:
    """Looks at a job while it runs: when its first rows came, and what Flink's checkpoints are like."""

    master: str
    job: StreamJob
    rows: int
    began_s: float = 0.0
    checkpoint: dict[str, Any] = field(default_factory=dict)

    def look(self, numbers: JobNumbers) -> None:
        if numbers.counts.rows_in and not self.began_s:
            self.began_s = time.monotonic()
        with suppress(EngineError):
            for job, (_, state) in flink.jobs(self.master).items():
                if state == "RUNNING":
                    told = flink.ask(self.master, f"/jobs/{job}/checkpoints")
                    self.checkpoint = told["latest"]["completed"] or self.checkpoint
        if numbers.counts.rows_in >= self.rows:
            ask_to_stop(self.job.stop_file)


def measured(folder: Path, task_managers: int, series: int, windows: int) -> dict[str, float]:
    """Series-steps a second; the last checkpoint's size in bytes, and how long it took in milliseconds."""
    folder.mkdir(parents=True)
    rows = Fleet(series).write(folder / "rows.parquet", windows)
    with FlinkCluster.start(folder / "cluster", task_managers) as cluster:
        source = ReplaySource((str(rows),), fleet.INPUT, fleet.FREQ, manifest_folder=folder / "out/state")
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
    return {
        "rate": outcome.counts.series_steps / seconds,
        "checkpoint_bytes": watch.checkpoint.get("state_size", float("nan")),
        "checkpoint_ms": watch.checkpoint.get("end_to_end_duration", float("nan")),
        "snapshot_ms": outcome.numbers.snapshot_ms,
    }


def main() -> int:
    """Prints a line a run, and the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flink", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small fleet alone, to see that it runs")
    chosen = parser.parse_args()
    print(machine.described(), flush=True)
    found = {}
    for series, windows in _SIZES[: 1 if chosen.quick else None]:
        for task_managers in (1, 2):
            with tempfile.TemporaryDirectory(prefix="statecast-flink-") as folder:
                one = measured(Path(folder) / "run", task_managers, series, windows)
            found[f"{series}x{task_managers}"] = {name: round(value) for name, value in one.items()}
            print(f"{series:>9,} series, {task_managers} task managers: {one}", flush=True)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
