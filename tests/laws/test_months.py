"""Laws for windows that are calendar months, which differ in length.

A stream gives the forecasts of a backfill, also if it continues from the state of an earlier backfill.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from forecaster.time.aggregation import aggregate
from forecaster.time.frequency import Frequency
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, StreamJob
from pipelines.sinks.files import read_forecasts, read_late
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.replay import ReplaySource
from pipelines.state import state_table
from tests.comparisons import assert_same_frames, assert_same_state
from tests.fleets import forecaster, scales

MONTH = Frequency(0, 1)
MODEL = forecaster(freq="1mo", ring=24)
# December 1967 to November 1972 contains two leap days, and months before and after 1970.
FIRST, MONTHS, SERIES = (
    -25,
    60,
    5,
)
SPLIT_US = 864_000_000_000  # this time is the start of 11 January 1970


def readings() -> pl.DataFrame:
    """Return rows in which each series has at most two values in a month, and none in at least one month.

    Some rows are at the first or the last microsecond of a month.
    """
    rng = np.random.default_rng(3)
    month = np.repeat(FIRST + np.arange(MONTHS), 2 * SERIES)
    begin_us, end_us = MONTH.start_us(month), MONTH.end_us(month)
    share = rng.choice([0.0, 0.3, 0.7, 1.0], len(month))
    at_us = np.minimum(begin_us + (share * (end_us - begin_us)).astype(np.int64), end_us - 1)
    series = np.tile(np.arange(SERIES), 2 * MONTHS)
    values = rng.normal(size=len(month)) + 10 * series + 5 * np.sin(month * np.pi / 6)
    rows = pl.DataFrame(
        {
            "series_id": [f"s{i}" for i in series],
            "timestamp": pl.Series(at_us).cast(pl.Datetime("us", "UTC")),
            "value": values,
        }
    )
    return rows.filter(pl.Series(rng.random(len(month)) > 0.2))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("months") / "rows.csv"
    readings().write_csv(path, datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ")
    return path


@pytest.fixture(scope="module")
def whole(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output folder of a backfill over all rows."""
    output = tmp_path_factory.mktemp("whole")
    assert not run_backfill(BackfillJob(MODEL, (str(file),), Input(Columns()), output, 2)).counts.missing
    return output


def scale() -> dict[str, float]:
    return scales(aggregate(readings(), MODEL.window_config).windows)


def test_forecasts_are_issued_at_the_end_of_each_month(whole: Path) -> None:
    issued = read_forecasts(whole)["issued_at"].unique().sort().to_list()
    months = range(FIRST + 1, FIRST + MONTHS + 1)
    assert issued == [datetime(1970 + m // 12, m % 12 + 1, 1, tzinfo=UTC) for m in months]


def test_streams_and_backfill_of_month_windows_give_equal_forecasts(
    file: Path, whole: Path, tmp_path: Path
) -> None:
    replay = ReplaySource((str(file),), Input(Columns()), MONTH, lateness_s=86_400, windows_per_step=7)
    for name, source in (("replay", replay), ("paced", replace(replay, speed=MONTH.nominal_s * 400.0))):
        job = StreamJob(MODEL, source, tmp_path / name, 3, windows_per_step=5, runner="in-process")
        outcome = run_stream(job)
        assert not outcome.counts.missing
        assert not len(read_late(job.output))
        assert_same_frames(read_forecasts(whole), read_forecasts(job.output), scale())
        assert_same_state(
            state_table.read(whole / "state").state, state_table.read(job.output / "state").state
        )


def test_rows_of_months_closed_in_the_state_are_late(file: Path, whole: Path, tmp_path: Path) -> None:
    before, after = Input(Columns(), end_us=SPLIT_US), Input(Columns(), start_us=SPLIT_US)
    source = ReplaySource((str(file),), before, MONTH, lateness_s=20 * 86_400)
    first = StreamJob(MODEL, source, tmp_path / "a", 2, runner="in-process")
    run_stream(first)
    table = state_table.read(first.output / "state")
    assert table.state.freq == MONTH
    assert set(table.state.clock.tolist()) == {0}  # a replay that ends closes its last window, January
    assert str(table.state.frame()["clock"][0]) == "1970-02-01 00:00:00+00:00"

    second = BackfillJob(MODEL, (str(file),), after, tmp_path / "b", 3, state_table=first.output / "state")
    late = run_backfill(second).counts.late
    january = readings().filter(
        pl.col("timestamp").dt.epoch("us") >= SPLIT_US, pl.col("timestamp").dt.epoch("us") < MONTH.end_us(0)
    )
    assert late == len(january) > 0
