"""Tests of `infer_freq`, which infers the frequency of windows from the times of rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.time.frequency import Frequency
from forecaster.time.infer_freq import infer_freq
from schemas.errors import DataError

REGULAR = (
    "1s",
    "30s",
    "1m",
    "10m",
    "15m",
    "1h",
    "4h",
    "1d",
    "2d",
    "1w-sun",
    "1w",
    "2w-mon",
    "1mo",
    "1q",
)


def rows_at(times: list[datetime], series: str = "a") -> pl.DataFrame:
    return pl.DataFrame(
        {"series_id": [series] * len(times), "timestamp": times, "value": [1.0] * len(times)},
        schema_overrides={"timestamp": pl.Datetime("us", "UTC")},
    )


@given(
    st.sampled_from(REGULAR),
    st.integers(-40, 600),
    st.integers(30, 200),
    st.sets(st.integers(0, 199), max_size=3),
    st.integers(1, 3),
)
def test_infer_freq_finds_regular_windows_although_some_are_missing(
    freq: str, start: int, length: int, missing: set[int], series: int
) -> None:
    frequency = Frequency.parse(freq)
    windows = np.array([start + row for row in range(length) if row not in missing])
    begins = pl.Series(frequency.start_us(windows)).cast(pl.Datetime("us", "UTC")).to_list()
    rows = pl.concat([rows_at(begins[number:], f"s{number}") for number in range(series)])
    assert infer_freq(rows.sample(fraction=1, shuffle=True, seed=0)).freq == freq


@pytest.mark.parametrize(
    ("freq", "times"),
    [
        ("1mo", [datetime(2020 + m // 12, m % 12 + 1, 1, tzinfo=UTC) - timedelta(days=1) for m in range(36)]),
        ("4w", [datetime(2020, 1, 2, tzinfo=UTC) + timedelta(weeks=4 * k) for k in range(30)]),
        ("1d", [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(k) for k in range(90) if k % 7 < 5]),
        ("1y", [datetime(1990 + k, 7, 1, tzinfo=UTC) for k in range(20)]),
    ],
)
def test_monthly_four_weekly_workday_and_yearly_times_are_recognised(
    freq: str, times: list[datetime]
) -> None:
    assert infer_freq(rows_at(times)).freq == freq


def test_irregular_rows_get_the_nearest_usual_frequency_with_a_reason() -> None:
    steps = np.random.default_rng(0).uniform(40, 75, 300).cumsum()
    found = infer_freq(rows_at([datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=s) for s in steps]))
    assert found.freq == "1m"
    assert "irregular" in found.reason


def test_infer_freq_reports_the_share_of_regular_rows() -> None:
    times = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=k) for k in range(101) if k != 50]
    assert infer_freq(rows_at(times)) == ("1h", "99% of the rows follow the row before after 1h")


@pytest.mark.parametrize("count", [0, 1])
def test_infer_freq_refuses_rows_without_two_times_in_one_series(count: int) -> None:
    rows = pl.concat([rows_at([datetime(2024, 1, 1, tzinfo=UTC)] * count, name) for name in "ab"])
    with pytest.raises(DataError, match=r"no series has two rows at different times.*--freq"):
        infer_freq(rows)
