"""The phases of a run; each is called in a process of its own, so that none inherits memory or threads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks import bare, fleet, machine, naive
from pipelines.jobs.backfill import BackfillJob, run_backfill
from pipelines.jobs.outcome import Outcome
from pipelines.jobs.stream import StreamJob, run_stream
from pipelines.process import cores
from pipelines.sinks.files import CLOSINGS
from pipelines.sources.feeds import ReplayFeed

Result = dict[str, Any]

SERIES = fleet.SERIES


def run_bare(folder: Path, windows: int) -> Result:
    """The fastest loop, the fastest of all, and each layout's rate; ``windows`` sets how long each runs."""
    job = BackfillJob(fleet.forecaster(), (), fleet.INPUT, folder)
    rates = bare.measure(cores(), job.shards, job.windows_per_step, seconds=windows / 168)
    return {
        "rate": max(rate for layout, rate in rates.items() if layout.loops == 1),
        "side_by_side": max(rates.values()),
        "layouts": {str(layout): rate for layout, rate in rates.items()},
    }


def run_backfill_phase(folder: Path, windows: int) -> Result:
    """Parquet to Parquet, wall clock of the whole job, the pipeline's construction included.

    ``steady`` leaves out what comes before the first file of forecasts.
    """
    output, rows = folder / "out", str(_rows(folder, windows))
    outcome = run_backfill(BackfillJob(fleet.forecaster(), (rows,), fleet.INPUT, output))
    _check(outcome, windows)
    first, *others = sorted(_closings(output), key=lambda line: line["at_s"])
    steady = sum(line["steps"] for line in others) / (others[-1]["at_s"] - first["at_s"])
    return {"rate": outcome.counts.series_steps / outcome.seconds, "steady": steady}


def run_stream_phase(folder: Path, windows: int) -> Result:
    """Unpaced replay on Prism: from the first rows that the feed releases to the last file of forecasts."""
    outcome = run_stream(_stream_job(folder, windows, speed=0.0))
    _check(outcome, windows)
    first_s, last_s = _span(outcome.output)
    steps = outcome.counts.series_steps
    return {
        "rate": steps / (last_s - first_s),
        "with_start": steps / outcome.seconds,
        "seconds": outcome.seconds,
    }


def run_naive(folder: Path, windows: int) -> Result:
    """A state a series and a call a row."""
    seconds = naive.run(fleet.forecaster(), _rows(folder, windows), folder / "out")
    return {"rate": windows * fleet.SERIES / seconds}


def run_paced(folder: Path, windows: int) -> Result:
    """One window of the whole fleet a second: latency of every closing, memory half-way and at the end."""
    with machine.MemorySampler() as memory:
        outcome = run_stream(_stream_job(folder, windows, speed=float(fleet.FREQ_S)))
    _check(outcome, windows)
    first_s, last_s = _span(outcome.output)
    return {
        "p50_ms": outcome.latency_quantile_ms(0.50),
        "p99_ms": outcome.latency_quantile_ms(0.99),
        "max_ms": max(outcome.latency_ms),
        "rss_start_mb": memory.around(first_s + (last_s - first_s) / 2),
        "rss_end_mb": memory.around(last_s - 3),
        "rss_mb": [round(mib) for _, mib in memory.samples],
    }


PHASES: dict[str, Callable[[Path, int], Result]] = {
    "bare": run_bare,
    "backfill": run_backfill_phase,
    "stream": run_stream_phase,
    "naive": run_naive,
    "paced": run_paced,
}
"""Each takes an empty folder of its own and a number of windows."""


def run(name: str, folder: Path, windows: int) -> Result:
    """A phase, after a tiny backfill: imports and torch's own first set-up are in nobody's rate."""
    few = fleet.frame(windows=2).filter(pl.col("series_id").is_in(fleet.names()[:50]))
    few.write_parquet(folder / "few.parquet")
    run_backfill(BackfillJob(fleet.forecaster(), (str(folder / "few.parquet"),), fleet.INPUT, folder / "few"))
    _rows(folder, windows)
    return PHASES[name](folder, windows)


def state_bytes_per_series() -> float:
    """Bytes of the arrays of one series' state."""
    return fleet.forecaster().unseen(("one",), 0).bytes_per_series


def _rows(folder: Path, windows: int) -> Path:
    """The fleet's rows, written once for all phases."""
    path = folder.parent / f"fleet-{windows}.parquet"
    if not path.exists():
        fleet.frame(windows).write_parquet(path)
    return path


def _stream_job(folder: Path, windows: int, speed: float) -> StreamJob:
    feed = ReplayFeed((str(_rows(folder, windows)),), fleet.INPUT, fleet.FREQ_S, speed=speed)
    return StreamJob(fleet.forecaster(), feed, folder / "out")


def _check(outcome: Outcome, windows: int) -> None:
    counts = outcome.counts
    if counts.missing or counts.series_steps != windows * fleet.SERIES:
        raise SystemExit(f"wrong counts, so no rate: {counts}")


def _closings(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / CLOSINGS).read_text().splitlines()]


def _span(output: Path) -> tuple[float, float]:
    """Wall clock of the first release of rows and of the last file of forecasts."""
    lines = _closings(output)
    released = [line["at_s"] - ms / 1000 for line in lines for ms in line["latency_ms"]]
    return min(released), max(line["at_s"] for line in lines)
