"""A log in memory as the source of a job, with rows out of order, late rows, duplicates and invalid rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from forecaster.shards.counts import Counts
from forecaster.time.windows import Windows
from pipelines.jobs.job import StreamJob
from pipelines.sinks.files import read_forecasts, read_late, read_quarantine
from pipelines.sources.base import Step
from pipelines.storage import Location
from schemas import quarantine
from tests.comparisons import assert_same_frames, assert_same_scores
from tests.fleets import HALF_A_DAY, HALF_A_DAY_US, SHORT_WEEK, START, forecaster, rows_of, scales
from tests.outputs import assert_flat_as_nested
from tests.partitions import Log
from tests.stores import forecasts_written


@dataclass(frozen=True)
class LogSource:
    """A log as a `pipelines.sources.base.Source` that returns one batch in each step.

    Attributes:
        log: the complete log.
        stop: the offset at which the source ends; the log must have a watermark there.
    """

    log: Log
    stop: int
    is_paced: bool = False

    @property
    def partition(self) -> str:
        """Return the name of the log's partition."""
        return self.log.partition

    def step(self, offset: int) -> Step[int] | None:
        """Return the batch that begins at ``offset``, or None from ``stop`` on."""
        following = [batch for batch in self.log.batches(start=offset) if batch.stop <= self.stop]
        return Step((following[0],), following[0].stop) if following else None


def job_of(
    log: Log,
    output: Location,
    *,
    stop: int | None = None,
    shards: int = 1,
    windows_per_step: int = 4,
    repair: int = 0,
) -> StreamJob:
    """Return an in-process `StreamJob` that reads a log up to the offset ``stop``; None reads the whole log.

    The job resumes if there is a state table, writes a snapshot after each step, and writes flat files, too.
    """
    return StreamJob(
        forecaster(**SHORT_WEEK),
        LogSource(log, log.stop if stop is None else stop),
        output,
        shards=shards,
        windows_per_step=windows_per_step,
        resume=True,
        snapshot_every_s=0.0,
        runner="in-process",
        threads=1,
        flat="csv",
        repair=repair,
    )


@dataclass(frozen=True)
class LogOutputs:
    """The outputs of a stream that has read a log.

    Attributes:
        output: the output folder.
        counts: the counts of the job.
        scale: by series, the number by which differences of forecasts are divided; see `fleets.scales`.
    """

    output: Location
    counts: Counts
    scale: dict[str, float]

    def assert_same(self, output: Location, counts: Counts) -> None:
        """Assert that another stream has this stream's outputs and counts, and wrote no forecast twice."""
        # Do not compare the numbers of windows, because they depend on the number of shards.
        assert replace(counts, windows=0) == replace(self.counts, windows=0)
        assert_same_scores(counts.scores, self.counts.scores)
        forecasts = read_forecasts(self.output)
        assert_same_frames(forecasts, read_forecasts(output), self.scale)
        assert read_quarantine(self.output).equals(read_quarantine(output))
        assert read_late(self.output).equals(read_late(output))
        assert forecasts_written(output) == len(forecasts)
        assert_flat_as_nested(output, HALF_A_DAY)


def half_of(log: Log) -> int:
    """Return the offset at which the first half of the log's watermarks ends."""
    every = sorted(log.watermarks_us)
    return every[len(every) // 2 - 1]


def small_log(windows: int = 20, every: int = 22) -> tuple[Log, dict[str, float]]:
    """Return a log of four series with windows of half a day, and `fleets.scales` of the series.

    Args:
        windows: number of windows.
        every: number of offsets between two watermarks.
    """
    rng = np.random.default_rng(5)
    values = 1e3 + rng.normal(size=(windows, 4)).cumsum(axis=0)
    values[rng.random(values.shape) < 0.1] = np.nan
    fleet = Windows(tuple("abcd"), START // 12, values)
    rows = rows_of(fleet, HALF_A_DAY_US)
    rows = pl.concat([rows, rows.filter(pl.Series(rng.random(len(rows)) < 0.1))])
    event_us = rows["timestamp"].dt.epoch("us").to_numpy()
    order = np.argsort(event_us + rng.integers(0, 3 * HALF_A_DAY_US, len(rows)), kind="stable")
    is_bad = rng.random(len(rows) + 8) < 0.1
    is_bad[np.flatnonzero(~is_bad)[len(rows) :]] = True
    places = np.flatnonzero(~is_bad)
    rows, event_us = rows[order[: len(places)]], event_us[order[: len(places)]]
    bad = np.flatnonzero(is_bad)
    rejected = pl.DataFrame(
        {
            "file": ["log"] * len(bad),
            "row": bad + 1,
            "column": ["value"] * len(bad),
            "reason": ["is not a number"] * len(bad),
            "kind": ["is not a number"] * len(bad),
            "raw": ["{}"] * len(bad),
            "offset": bad,
        },
        schema=quarantine.SCHEMA | {"offset": pl.Int64()},
    )
    moved = {
        stop: int(event_us[places < stop].max()) - HALF_A_DAY_US for stop in range(every, len(is_bad), every)
    }
    end_us = fleet.stop * HALF_A_DAY_US
    rows = rows.with_columns(offset=pl.Series(places, dtype=pl.Int64))
    return Log("log", rows, rejected, (), moved | {len(is_bad): end_us}), scales(fleet)
