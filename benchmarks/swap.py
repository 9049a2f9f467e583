"""Measure a model change in a running stream: ``python -m benchmarks.swap``.

A stream of generated rows closes a window every ``--pace`` seconds. After ``--before`` windows the alias of
its model moves to another version. The stream warms this version up from the rings, and changes to it. The
benchmark compares the latency of the windows from then to ten windows after the change with the latency of
the windows before, and the memory during the warming with the memory before. It compares the forecasts of
some series after the change with two references: a re-warm at once, and a state that always ran the new
version. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks import machine
from forecaster.arrays import Floats
from forecaster.config import NetworkConfig
from forecaster.model import Forecaster
from forecaster.shards.batch import Batch
from forecaster.stepping.advance import advance
from forecaster.stepping.rewarming import rewarm
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from pipelines.jobs import follow
from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import StreamJob
from pipelines.jobs.registered_alias import AliasedVersion, RegisteredAlias
from pipelines.sinks.files import FORECASTS
from pipelines.sinks.numbers import JobNumbers, read_shards
from pipelines.sources.base import Step
from pipelines.sources.model_changes import read_changes
from schemas import quarantine

_HOUR_US = 3_600_000_000
_FIRST = 400_000  # index of the first window of one hour
_AFTER = 10
_WARM_UP = 5  # windows at the beginning whose latency does not count
_BACKLOG = 32  # windows in a batch while the rings are filled
_COMPARED = 100  # series whose forecasts are compared


def value(series: int, window: int) -> Floats:
    """Return the values of all series in a window, ``[series]`` float64."""
    rng = np.random.default_rng(window)
    number = np.arange(series)
    return 100 + 10 * np.sin(2 * np.pi * (window + number % 24) / 24) + rng.normal(size=series)


@dataclass
class Rows:
    """A source of generated rows: one row of each series in each window.

    Attributes:
        series: number of series.
        filled: number of windows that are read at once, to fill the rings.
        pace_s: seconds between two later windows.
        output: output folder; the rows end `_AFTER` windows after the change.
        most: the largest number of windows.
    """

    series: int
    filled: int
    pace_s: float
    output: Path
    most: int
    partition: str = "rows"
    is_paced: bool = True
    _due_s: float = field(default=0.0, init=False)

    def step(self, offset: int) -> Step[int] | None:
        """See `Source`."""
        window = offset // self.series
        if window >= self.most or window >= self._stop():
            return None
        if window < self.filled:
            return Step((self._batch(window, min(window + _BACKLOG, self.filled), 0.0),), self._next)
        now_s = time.time()
        if not self._due_s:  # the pace begins when the shards have stepped the windows that fill the rings
            end_us = (_FIRST + self.filled) * _HOUR_US
            if min((shard.closed_us or 0 for shard in read_shards(self.output)), default=0) < end_us:
                return Step((), offset, 0.1)
            self._due_s = now_s + self.pace_s
        if now_s < self._due_s:
            return Step((), offset, self._due_s - now_s)
        batch = self._batch(window, window + 1, self._due_s)
        self._due_s += self.pace_s
        return Step((batch,), self._next)

    def _stop(self) -> int:
        changes = read_changes(self.output / "state")
        last = changes[-1].window if changes else None
        return self.most if last is None else last - _FIRST + _AFTER

    def _batch(self, start: int, stop: int, arrived_s: float) -> Batch:
        windows = np.repeat(np.arange(start, stop), self.series)
        rows = pl.DataFrame(
            {
                "series_id": names(self.series) * (stop - start),
                "timestamp": pl.Series((_FIRST + windows) * _HOUR_US).cast(pl.Datetime("us", "UTC")),
                "value": np.concatenate([value(self.series, window) for window in range(start, stop)]),
                "offset": np.arange(start * self.series, stop * self.series),
            }
        )
        rejected = quarantine.empty(offset=True)
        self._next = stop * self.series
        end_us = (_FIRST + stop) * _HOUR_US
        return Batch("rows", start * self.series, self._next, rows, rejected, end_us, arrived_s=arrived_s)


def names(series: int) -> list[str]:
    """Return the ids of the series."""
    return [f"s{number:06d}" for number in range(series)]


@dataclass
class MovingAlias(RegisteredAlias):
    """An alias that moves from one version to another after ``before`` windows of the paced part."""

    old: Forecaster
    new: Forecaster
    moves_at: int
    closed: int = 0

    def current(self) -> AliasedVersion:
        """See `RegisteredAlias`."""
        moved = self.closed >= self.moves_at
        return AliasedVersion("m/2" if moved else "m/1", (self.new if moved else self.old).version)

    def load(self, model: str) -> Forecaster:
        """See `RegisteredAlias`."""
        return self.new if model == "m/2" else self.old

    def with_tables(self, forecaster: Forecaster) -> Forecaster:
        """See `RegisteredAlias`."""
        return forecaster

    def refuse(self, model: str, reason: str) -> None:
        """See `RegisteredAlias`."""
        raise RuntimeError(f"{model} was refused: {reason}")


@dataclass
class Latencies:
    """The latency of the slowest shard in each window, in milliseconds, by the index of the window."""

    output: Path
    alias: MovingAlias
    by_window: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    requested_s: float = 0.0
    changed_s: float = 0.0

    def take(self, numbers: JobNumbers) -> None:
        """Read the latencies that the shards published last."""
        for shard in read_shards(self.output):
            for closed_us, ms in shard.recent:
                window = closed_us // _HOUR_US - 1
                self.by_window[window] = max(ms, self.by_window[window])
        if numbers.closed_us is not None:
            self.alias.closed = numbers.closed_us // _HOUR_US - _FIRST
        if numbers.next_model and not self.requested_s:
            self.requested_s = time.time()
        if self.requested_s and not self.changed_s and numbers.model_versions == (self.alias.new.version,):
            self.changed_s = time.time()


def read_windows(output: Path) -> pl.DataFrame:
    """Return the number of forecasts and of model versions in each window, without reading the forecasts.

    Columns: ``issued_at, len, versions``. All forecasts of a large fleet would need gigabytes of memory.
    """
    return (
        pl.scan_parquet(output / FORECASTS / "*.parquet")
        .group_by("issued_at")
        .agg(pl.len(), pl.col("model_version").n_unique().alias("versions"))
        .collect()
    )


def differences(old: Forecaster, new: Forecaster, output: Path, series: int, change: int) -> dict[str, float]:
    """Return the distances of the forecasts after a change from two references, in standard deviations.

    The references are a state that is re-warmed at once at the change, and a state that always ran ``new``.
    """
    ids = names(series)[:_COMPARED]
    files = pl.scan_parquet(output / FORECASTS / "*.parquet")
    is_compared = pl.col("series_id").is_in(ids) & (pl.col("issued_at").dt.epoch("us") > change * _HOUR_US)
    issued = files.filter(is_compared).collect()
    last = int(issued["issued_at"].dt.epoch("us").max()) // _HOUR_US - 1  # type: ignore[arg-type]
    values = np.stack([value(series, w)[:_COMPARED] for w in range(last + 1 - _FIRST)])
    every = Windows(tuple(ids), _FIRST, values)
    state, _ = advance(old, old.initial_state(), every.between(_FIRST, change))
    _, at_once = advance(new, rewarm(new, state), every.between(change, last + 1))
    _, always = advance(new, new.initial_state(), every)
    found = _values(issued, change)
    scale = float(values.std(axis=0).mean())
    rewarmed, long_run = (np.abs(found - _values(one.frame(), change)) / scale for one in (at_once, always))
    return {
        "rewarm_difference_max": float(rewarmed.max()),
        "always_new_difference_median": float(np.median(long_run)),
        "always_new_difference_max": float(long_run.max()),
    }


def _values(frame: pl.DataFrame, change: int) -> Floats:
    """Return the forecasts from the window ``change`` on as one array, sorted by issue time and series."""
    after = frame.filter(pl.col("issued_at").dt.epoch("us") > change * _HOUR_US).sort(
        "issued_at", "series_id"
    )
    nested = after.select("forecast").explode("forecast").unnest("forecast").drop("horizon")
    return nested.to_numpy()


def main() -> int:
    """Run the stream, and print latencies, memory, differences and the JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swap", description=__doc__)
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--pace", type=float, default=1.0, metavar="SECONDS", help="time between two windows")
    parser.add_argument("--before", type=int, default=60, help="paced windows before the request")
    chosen = parser.parse_args()
    print(machine.described(), flush=True)
    old, new = (Forecaster.untrained(NetworkConfig(), WindowConfig(freq="1h"), seed) for seed in (1, 2))
    filled = old.network_config.ring
    with tempfile.TemporaryDirectory(prefix="statecast-swap-") as folder, machine.MemorySampler() as memory:
        output = Path(folder) / "out"
        alias = MovingAlias(old, new, filled + chosen.before)
        latencies = Latencies(output, alias)
        source = Rows(chosen.series, filled, chosen.pace, output, filled + chosen.before + 2 * filled)
        job = StreamJob(old, source, output, runner="in-process", alias=alias, follows=True, model="m/1")
        follow.POLL_S = 1.0
        outcome = run_stream(job, latencies.take, print)
        change = read_changes(output / "state")[-1].window
        assert change is not None
        windows = read_windows(output)
        far = differences(old, new, output, chosen.series, change)
    asked = _FIRST + filled + chosen.before
    before = [ms for w, ms in latencies.by_window.items() if _FIRST + filled + _WARM_UP <= w < asked]
    around = [ms for w, ms in latencies.by_window.items() if w >= asked]
    p99_ms, longest_ms = float(np.quantile(before, 0.99)), max(around)
    began, ended = latencies.requested_s, latencies.changed_s
    result = {
        "series": chosen.series,
        "windows": len(windows),
        "windows_lost": int((windows["len"] < chosen.series).sum()),
        "windows_of_two_versions": int((windows["versions"] > 1).sum()),
        "rows_late": outcome.counts.late,
        "windows_warming": change - asked,
        "warming_s": round(ended - began, 1),
        "p50_ms_before": round(float(np.median(before)), 1),
        "p99_ms_before": round(p99_ms, 1),
        "p50_ms_during": round(float(np.median(around)), 1),
        "p99_ms_during": round(float(np.quantile(around, 0.99)), 1),
        "longest_ms_during": round(longest_ms, 1),
        "ratio": round(longest_ms / p99_ms, 2),
        "mib_before": round(memory.around(began - 5), 1),
        "mib_warming_max": round(max(mib for at, mib in memory.samples if began <= at <= ended), 1),
        **{name: float(f"{number:.3g}") for name, number in far.items()},
    }
    for name, number in result.items():
        print(f"{name:30}{number:>14,}")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
