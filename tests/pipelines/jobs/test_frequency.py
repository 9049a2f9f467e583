"""Tests that a job infers a missing frequency from its rows, and reports a frequency that does not fit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from pipelines.jobs.frequency import with_frequency
from pipelines.settings.config import JobConfig


def rows(step: timedelta, count: int = 200) -> pl.DataFrame:
    """Return rows of three series, ``step`` apart."""
    times = [datetime(2013, 1, 1, tzinfo=UTC) + i * step for i in range(count)]
    one = pl.DataFrame({"timestamp": times}, schema={"timestamp": pl.Datetime("us", "UTC")})
    return pl.concat(one.with_columns(pl.lit(name).alias("series_id"), value=1.0) for name in "abc")


def found(step: timedelta, **windows: str) -> tuple[str, list[str]]:
    lines: list[str] = []
    job = with_frequency(JobConfig.model_validate({"windows": windows}), rows(step), lines.append)
    return job.windows.freq, lines


def test_a_missing_frequency_is_inferred_from_the_rows() -> None:
    lines = ["frequency 15m: 100% of the rows follow the row before after 15m"]
    assert found(timedelta(minutes=15)) == ("15m", lines)
    assert found(timedelta(minutes=15), allowed_lateness="1h") == ("15m", lines)


@pytest.mark.parametrize(
    ("step", "freq", "expected"),
    [
        (timedelta(days=1), "1h", "rows are usually 24 windows of 1h apart, so 96% of the windows are empty"),
        (
            timedelta(hours=12),
            "1h",
            "so 92% of the windows are empty: train with longer windows, such as --freq 12h",
        ),
        (timedelta(minutes=1), "1h", "windows of 1h hold about 60 rows of each series, which are usually 1m"),
        (timedelta(hours=1), "1h", ""),
        (timedelta(hours=9), "1h", ""),
        (timedelta(minutes=2), "1h", ""),
    ],
)
def test_a_frequency_that_does_not_fit_the_rows_is_reported(
    step: timedelta, freq: str, expected: str
) -> None:
    kept, lines = found(step, freq=freq)
    assert kept == freq
    assert (expected in lines[0]) if expected else (lines == [])


def test_sums_counts_and_zero_filling_get_no_misfit_notice() -> None:
    assert found(timedelta(seconds=10), freq="1h", aggregate="count")[1] == []
    assert found(timedelta(seconds=10), freq="1h", aggregate="sum")[1] == []
    assert found(timedelta(days=1), freq="1h", empty="zero")[1] == []
