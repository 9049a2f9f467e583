"""The phases of a benchmark; each runs in a separate process, so that it inherits no memory or threads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks import bare, fleet, machine, naive
from benchmarks.fleet import Fleet
from forecaster.model import Forecaster
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, Outcome, StreamJob
from pipelines.sources.base import Source, Step
from pipelines.sources.folder import FolderSource
from pipelines.sources.reader import request_stop
from pipelines.sources.replay import ReplaySource
from pipelines.storage import store_of
from pipelines.workers.process import cores

Result = dict[str, Any]

_GAPPY = {"missing": 0.05, "late_born": 0.02}
_SNAPSHOT_EVERY_S = 30.0


def run_bare(folder: Path, series: int, windows: int) -> Result:
    """Measure the network alone: the fastest single loop, the fastest layout, and the rate of each layout.

    Each layout runs ``windows`` / 168 seconds, at most two.
    """
    job = BackfillJob(fleet.forecaster(), (), fleet.INPUT, folder)
    rates = bare.measure(
        min(series, 10_000), cores(), job.shards, job.windows_per_step, seconds=min(windows, 336) / 168
    )
    return {
        "rate": max(rate for layout, rate in rates.items() if layout.loops == 1),
        "side_by_side": max(rates.values()),
        "layouts": {str(layout): rate for layout, rate in rates.items()},
    }


def run_backfill_phase(folder: Path, series: int, windows: int) -> Result:
    """Measure a backfill from Parquet to Parquet, by the wall-clock time of the whole job."""
    return _backfill(folder, Fleet(series), windows)


def run_gappy_phase(folder: Path, series: int, windows: int) -> Result:
    """Measure a backfill of a fleet with gaps and with series that begin later than others."""
    return _backfill(folder, Fleet(series, **_GAPPY), windows)


def run_whole_phase(folder: Path, series: int, windows: int) -> Result:
    """Measure a backfill with a default forecaster instead of the network alone."""
    return _backfill(folder, Fleet(series), windows, fleet.whole())


def _backfill(folder: Path, of: Fleet, windows: int, model: Forecaster | None = None) -> Result:
    rows = str(_rows(folder, of, windows))
    with machine.MemorySampler() as memory:
        outcome = run_backfill(BackfillJob(model or fleet.forecaster(), (rows,), fleet.INPUT, folder / "out"))
    _check(outcome, of.steps(windows))
    return {"rate": outcome.counts.series_steps / outcome.seconds, "rss_most_mb": memory.most()}


def run_stream_phase(folder: Path, series: int, windows: int) -> Result:
    """Measure an unpaced replay on Prism, from its first rows to the last written forecast."""
    of = Fleet(series)
    source = _TimedSource(_replay(folder, of, windows, speed=0.0))
    with machine.MemorySampler() as memory:
        outcome = run_stream(StreamJob(fleet.forecaster(), source, folder / "out"))
    _check(outcome, of.steps(windows))
    return {
        "rate": outcome.counts.series_steps / (_last_written_s(outcome) - _released_s[0]),
        "with_start": outcome.counts.series_steps / outcome.seconds,
        "rss_most_mb": memory.most(),
    }


def run_watched_phase(folder: Path, series: int, windows: int) -> Result:
    """Measure a stream of a watched folder that holds one file for each window."""
    of, incoming = Fleet(series), folder / "in"
    incoming.mkdir()
    for frame in of.frames(windows):
        for key, part in frame.partition_by("timestamp", as_dict=True, maintain_order=True).items():
            path = incoming / f"{key[0]:%Y%m%dT%H}.parquet"
            part.write_parquet(path)
            os.utime(path, (0, 0))
    output = folder / "out"
    source = _TimedSource(FolderSource(incoming, fleet.INPUT, output / "state", poll_s=0.1))
    job = StreamJob(fleet.forecaster(), source, output)
    rows = series * windows

    def until_read(numbers: Any) -> None:
        if numbers.counts.rows_in >= rows:
            request_stop(job.stop_file)

    outcome = run_stream(job, until_read)
    _check(outcome, of.steps(windows) - series)  # the newest window stays open
    seconds = _last_written_s(outcome) - _released_s[0]
    return {"rate": outcome.counts.series_steps / seconds, "files_per_s": windows / seconds}


def run_naive(folder: Path, series: int, windows: int) -> Result:
    """Measure the simple pipeline of `benchmarks.naive`."""
    seconds = naive.run(fleet.forecaster(), _rows(folder, Fleet(series), windows), folder / "out")
    return {"rate": windows * series / seconds}


def run_paced(folder: Path, series: int, windows: int) -> Result:
    """Measure a stream of one window of the fleet per second, with snapshots: latency and memory."""
    of = Fleet(series)
    source = _TimedSource(_replay(folder, of, windows, speed=float(fleet.FREQ_S)))
    job = StreamJob(fleet.forecaster(), source, folder / "out", snapshot_every_s=_SNAPSHOT_EVERY_S)
    with machine.MemorySampler() as memory:
        outcome = run_stream(job)
    _check(outcome, of.steps(windows))
    last_s = _last_written_s(outcome)
    return {
        "p50_ms": outcome.latency_ms(0.50),
        "p99_ms": outcome.latency_ms(0.99),
        "max_ms": outcome.latency_ms(1.0),
        "snapshot_ms": outcome.numbers.snapshot_ms,
        "rss_start_mb": memory.around(_released_s[0] + (last_s - _released_s[0]) / 2),
        "rss_end_mb": memory.around(last_s - 3),
        "rss_mb": [round(mib) for _, mib in memory.samples],
    }


PHASES: dict[str, Callable[[Path, int, int], Result]] = {
    "bare": run_bare,
    "backfill": run_backfill_phase,
    "gappy": run_gappy_phase,
    "whole": run_whole_phase,
    "stream": run_stream_phase,
    "watched": run_watched_phase,
    "naive": run_naive,
    "paced": run_paced,
}
"""Phases by name; the arguments are an empty folder, the number of series and the number of windows."""


def run(name: str, folder: Path, series: int, windows: int) -> Result:
    """Run a phase after a tiny backfill, so that no rate includes imports or the initialization of torch."""
    few = folder / "few.parquet"
    pl.concat(Fleet(50).frames(2)).write_parquet(few)
    run_backfill(BackfillJob(fleet.forecaster(), (str(few),), fleet.INPUT, folder / "few"))
    return PHASES[name](folder, series, windows)


def state_bytes_per_series() -> float:
    """Return the bytes of the state arrays of one series."""
    return fleet.forecaster().new_series_state(("one",), 0).bytes_per_series


_released_s: list[float] = []  # a global variable works here, because the workers run in this process


@dataclass(frozen=True)
class _TimedSource:
    """A source that records the time of its first rows in `_released_s`."""

    source: Source

    @property
    def partition(self) -> str:
        return self.source.partition

    @property
    def is_paced(self) -> bool:
        return self.source.is_paced

    def step(self, offset: int) -> Step[int] | None:
        step = self.source.step(offset)
        if not _released_s and step is not None and any(len(batch.rows) for batch in step.batches):
            _released_s.append(time.time())
        return step


def _rows(folder: Path, of: Fleet, windows: int) -> Path:
    """Return the file of the fleet's rows, which is written once for all phases."""
    path = folder.parent / f"fleet-{hash(of)}-{windows}.parquet"
    return path if path.exists() else of.write(path, windows)


def _replay(folder: Path, of: Fleet, windows: int, speed: float) -> ReplaySource:
    rows, states = str(_rows(folder, of, windows)), folder / "out" / "state"
    return ReplaySource((rows,), fleet.INPUT, fleet.FREQ, speed=speed, manifest_folder=states)


def _check(outcome: Outcome, steps: int) -> None:
    counts = outcome.counts
    if counts.missing or counts.series_steps != steps:
        raise SystemExit(
            f"cannot measure a rate: the job should make {steps} series-steps, but its counts are {counts}"
        )


def _last_written_s(outcome: Outcome) -> float:
    """Return the wall-clock time, in seconds, of the last file of forecasts."""
    return max(store_of(file).written_ns() for file in (outcome.output / "forecasts").glob("*")) / 1e9
