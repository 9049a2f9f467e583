"""Law: every job over the same file issues the same forecasts.

The forecasts of two jobs differ by at most 1e-5 times the series' number in `fleets.scales`. A job may be a
backfill or a stream, and may run in process or on Prism.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from forecaster.model import Forecaster
from forecaster.shards.counts import Counts
from forecaster.state import State
from forecaster.time.aggregation import aggregate
from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, Runner, StreamJob
from pipelines.sinks.files import read_forecasts, read_late, read_quarantine
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.base import Source
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.folder import FolderSource
from pipelines.sources.reader import request_stop
from pipelines.sources.replay import ReplaySource
from pipelines.state import state_table
from pipelines.storage import Location
from schemas import observations
from schemas.forecasts import check_forecasts
from tests.comparisons import assert_same_frames, assert_same_scores, assert_same_state
from tests.fleets import HOUR, HOUR_US, SHORT_WEEK, START, forecaster, rows_of, scales


class Outputs(NamedTuple):
    """The forecasts, quarantined rows, late rows, state and counts of a job that has ended."""

    forecasts: pl.DataFrame
    quarantine: pl.DataFrame
    late: pl.DataFrame
    state: State
    counts: Counts


class JobsOfFile(NamedTuple):
    """The outputs of jobs over one file: ``backfill`` ran in process, ``others`` maps names to outputs."""

    model: Forecaster
    raw: pl.DataFrame
    backfill: Outputs
    others: dict[str, Outputs]

    def scale(self) -> dict[str, float]:
        """Return `tests.fleets.scales` of the windows to which the valid rows are aggregated."""
        good, _ = observations.validate(self.raw)
        config = self.model.window_config
        return scales(aggregate(good, config).windows, config.empty)


def outputs_of(output: Location, counts: Counts) -> Outputs:
    table = state_table.read(output / "state")
    assert not len(table.pending)
    return Outputs(read_forecasts(output), read_quarantine(output), read_late(output), table.state, counts)


def run_jobs(model: Forecaster, raw: pl.DataFrame, columns: Columns, folder: Path) -> JobsOfFile:
    path = folder / "rows.csv"
    raw.write_csv(path)
    rows = Input(columns, batch_rows=400)
    config, paths = model.window_config, (str(path),)
    backfill = run_backfill(BackfillJob(model, paths, rows, folder / "backfill", shards=2)).counts
    replay = ReplaySource(paths, rows, config.frequency, config.lateness_s, windows_per_step=7)
    paced = replace(replay, speed=config.frequency.nominal_s * 400.0)
    runs: list[tuple[str, Source, Runner]] = [
        ("prism", replay, "prism"),
        ("in process", replay, "in-process"),
        ("paced", paced, "in-process"),
    ]
    others = {}
    for name, source, runner in runs:
        job = StreamJob(model, source, folder / name, shards=3, windows_per_step=5, runner=runner)
        outcome = run_stream(job)
        assert not outcome.stopped
        others[name] = outputs_of(job.output, outcome.counts)
    on_prism = BackfillJob(model, paths, rows, folder / "backfill on prism", shards=3, runner="prism")
    others["backfill on prism"] = outputs_of(on_prism.output, run_backfill(on_prism).counts)
    return JobsOfFile(model, raw, outputs_of(folder / "backfill", backfill), others)


def readings() -> pl.DataFrame:
    """Return about 2,200 readings of 40 series in random order, with gaps, duplicates and invalid rows.

    The windows are half a day long, as in `SHORT_WEEK`.
    """
    rng = np.random.default_rng(0)
    series, windows = 40, 60
    values = rng.normal(size=(windows, series)).cumsum(axis=0) + np.logspace(0, 9, series)
    window_s = 12 * 3600
    at = START * 3600 + np.arange(windows)[:, None] * window_s + rng.integers(0, window_s, (windows, series))
    rows = pl.DataFrame(
        {
            "series_id": [f"s{i}" for i in range(series)] * windows,
            "timestamp": pl.from_epoch(pl.Series(at.reshape(-1)), "s").dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "value": [repr(v) for v in values.reshape(-1).tolist()],
        }
    )
    late_beginner = (pl.col("series_id") == "s7") & (pl.int_range(pl.len()) < 30 * series)
    quiet = (pl.int_range(pl.len()) // series).is_between(25, 29)  # in these windows, no series has a row
    rows = rows.filter(~late_beginner & ~quiet & pl.Series(rng.random(series * windows) > 0.05))
    bad = rows.head(30).with_columns(
        series_id=pl.Series(["", None, "s1"] * 10),
        timestamp=pl.when(pl.int_range(30) % 3 == 2).then(pl.lit("never")).otherwise("timestamp"),
    )
    worse = rows.head(20).with_columns(value=pl.Series(["NaN", "inf", "much", None] * 5))
    return pl.concat([rows, bad, worse, rows.head(45), rows.head(5)]).sample(fraction=1, shuffle=True, seed=1)


def events() -> pl.DataFrame:
    """Return about 1,900 events of 9 series; some of them occur twice.

    A series has several events in some hours, and none in others.
    """
    rng = np.random.default_rng(1)
    count = 2000
    at = START * 3600 + rng.integers(0, 150 * 60, count) * 60  # times are whole minutes, so some are equal
    rows = pl.DataFrame(
        {
            "series_id": [f"gate {i}" for i in rng.integers(0, 9, count)],
            "timestamp": pl.from_epoch(pl.Series(at), "s").dt.strftime("%Y-%m-%d %H:%M"),
            "value": rng.exponential(10, count).round(3).astype(str),
            "event_id": [f"e{i}" for i in range(count)],
        }
    )
    rows = rows.filter(~((pl.col("series_id") == "gate 3") & (pl.col("timestamp") < "2013-01-04")))
    without_id = rows.head(10).with_columns(event_id=pl.lit(None, pl.String))
    return pl.concat([rows, without_id, rows.head(60)]).sample(fraction=1, shuffle=True, seed=2)


@pytest.fixture(scope="module", params=["readings", "events"])
def jobs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> JobsOfFile:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "readings":
        return run_jobs(forecaster(**SHORT_WEEK), readings(), Columns(), folder)
    model = forecaster("gru", aggregate="sum", empty="zero", allowed_lateness="3h")
    return run_jobs(model, events(), Columns(event_id="event_id"), folder)


@pytest.mark.prism
def test_every_stream_and_backfill_of_a_file_has_the_same_outputs(jobs: JobsOfFile) -> None:
    backfill = jobs.backfill
    assert len(backfill.forecasts) > 1000
    for other in jobs.others.values():
        assert_same_frames(backfill.forecasts, other.forecasts, jobs.scale())
        assert_same_state(backfill.state, other.state)
        assert backfill.counts == other.counts
        assert_same_scores(backfill.counts.scores, other.counts.scores)
        assert backfill.quarantine.equals(other.quarantine)
        assert not len(other.late)
        check_forecasts(other.forecasts)


@pytest.mark.prism
def test_row_counts_of_a_backfill_agree_with_validation(jobs: JobsOfFile) -> None:
    counts = jobs.backfill.counts
    good, bad = observations.validate(jobs.raw)
    identity = [name for name in good.columns if name != "value"]
    assert counts.missing == counts.late == counts.pending == 0
    assert counts.rows_in == len(jobs.raw)
    assert counts.rejected == len(bad) == len(jobs.backfill.quarantine) >= 10
    assert counts.duplicates == len(good) - len(good.unique(identity)) >= 50
    assert counts.series_steps == len(jobs.backfill.forecasts)
    check_forecasts(jobs.backfill.forecasts)


@pytest.mark.prism
def test_each_series_is_forecast_until_the_fleets_last_window(jobs: JobsOfFile) -> None:
    good, _ = observations.validate(jobs.raw)
    freq = jobs.model.window_config.frequency
    at = freq.window(pl.col("timestamp"))
    last = good.select(at.max()).item()
    expected = {
        (name, window)
        for name, first in good.group_by("series_id").agg(at.min()).iter_rows()
        for window in range(first, last + 1)
    }
    issued = jobs.backfill.forecasts.select("series_id", freq.window(pl.col("issued_at")) - 1)
    assert set(issued.iter_rows()) == expected


def test_streaming_a_watched_folder_issues_forecasts_after_every_closed_window(
    small_fleet: Windows, small_file: Path, tmp_path: Path
) -> None:
    model, incoming, output = forecaster(), tmp_path / "in", tmp_path / "out"
    incoming.mkdir()
    rows = rows_of(small_fleet).sort("timestamp")
    for number, first in enumerate(range(0, len(rows), 100)):
        path = incoming / f"{number:03}.parquet"
        rows[first : first + 100].write_parquet(path)
        os.utime(path, (time.time() - 60, time.time() - 60))
    job = StreamJob(
        model,
        FolderSource(incoming, Input(Columns()), output / "state", poll_s=0.02),
        output,
        shards=3,
        runner="in-process",
    )
    deadline_s = time.time() + 60

    def stop_when_read(numbers: JobNumbers) -> None:
        if numbers.counts.rows_in == len(rows) or time.time() > deadline_s:
            request_stop(job.stop_file)

    counts = run_stream(job, stop_when_read).counts
    run_backfill(BackfillJob(model, (str(small_file),), Input(Columns()), tmp_path / "backfill"))

    # The last window stays open, so the stream issues its last forecast at the start of this window.
    last = (small_fleet.stop - 1) * HOUR_US
    expected = read_forecasts(tmp_path / "backfill").filter(pl.col("issued_at").dt.epoch("us") <= last)
    assert_same_frames(expected, read_forecasts(output), scales(small_fleet))
    assert counts.missing == counts.late == 0
    assert counts.pending == len(rows.filter(pl.col("timestamp").dt.epoch("us") >= last)) > 0
    assert counts.used + counts.pending == len(rows)


@pytest.mark.parametrize(
    "newest", ["2013-01-09T00:00:00Z,much", "0001-01-01T00:00:00Z,1", "9999-12-31T00:00:00Z,1"]
)
def test_the_time_of_a_quarantined_row_closes_no_window(newest: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    good = [f"a,2013-01-01T{hour:02}:30:00Z,{hour}" for hour in range(12)]
    path.write_text("\n".join(["series_id,timestamp,value", *good[:6], f"a,{newest}", *good[6:]]) + "\n")
    rows, model = Input(Columns()), forecaster()
    outcomes = [
        run_backfill(BackfillJob(model, (str(path),), rows, tmp_path / "backfill", shards=2)),
        run_stream(
            StreamJob(
                model,
                ReplaySource((str(path),), rows, HOUR),
                tmp_path / "stream",
                shards=3,
                runner="in-process",
            )
        ),
    ]
    for outcome in outcomes:
        assert outcome.counts.rejected == 1
        assert outcome.counts.used == outcome.counts.windows == 12
        assert state_table.read(outcome.output / "state").closed_through == START + 11
