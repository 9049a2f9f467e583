"""Tests of frequencies: the windows that they define, their texts, and their pandas names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.time.frequency import Frequency, fixed_s
from forecaster.time.window_config import WindowConfig

WEEK_S = 604_800
FIXED = (Frequency(1), Frequency(900), Frequency(3600), Frequency(86_400), Frequency(WEEK_S))
WEEKS = tuple(Frequency(weeks * WEEK_S, 0, day * 86_400) for weeks in (1, 2) for day in range(1, 7))
CALENDAR = tuple(Frequency(0, months) for months in (1, 2, 3, 6, 12, 60))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
frequencies = st.sampled_from(FIXED + WEEKS + CALENDAR)
window_indices = st.integers(-1500, 3000)
times = st.datetimes(datetime(1850, 1, 1), datetime(2250, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))


def us(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)


@given(frequencies, window_indices)
def test_windows_follow_one_another_without_a_gap(freq: Frequency, k: int) -> None:
    begin, end = freq.start_us(k), freq.end_us(k)
    assert begin < end == freq.start_us(k + 1)
    assert freq.window_of(begin) == freq.window_of(end - 1) == k
    assert freq.window_of(begin - 1) == k - 1


@given(frequencies, window_indices)
def test_a_watermark_at_the_end_of_a_window_closes_the_window(freq: Frequency, k: int) -> None:
    assert freq.last_closed(freq.end_us(k)) == k
    assert freq.last_closed(freq.end_us(k) - 1) == k - 1


@given(frequencies, st.lists(times, min_size=1, max_size=20))
def test_numbers_arrays_and_columns_of_times_have_equal_windows(freq: Frequency, at: list[datetime]) -> None:
    at_us = np.array([us(one) for one in at], np.int64)
    one_by_one = [freq.window_of(int(one)) for one in at_us]
    assert freq.window_of(at_us).tolist() == one_by_one
    frame = pl.DataFrame({"t": pl.Series(at_us).cast(pl.Datetime("us", "UTC"))})
    column = frame.select(freq.window(pl.col("t"))).to_series()
    assert column.to_list() == one_by_one
    assert column.dtype == pl.Int64
    starts = freq.start_us(np.array([one_by_one]))
    assert starts.shape == (1, len(at))
    assert starts[0].tolist() == [freq.start_us(k) for k in one_by_one]


@given(st.sampled_from(CALENDAR), times)
def test_month_windows_follow_the_calendar(freq: Frequency, at: datetime) -> None:
    k = freq.window_of(us(at))
    first = k * freq.months
    assert first <= (at.year - 1970) * 12 + at.month - 1 < first + freq.months
    assert freq.start_us(k) == us(datetime(1970 + first // 12, first % 12 + 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("1mo", "2024-02-01", "2024-03-01"),  # a leap year
        ("1mo", "2023-02-01", "2023-03-01"),
        ("1mo", "1999-12-01", "2000-01-01"),
        ("1mo", "1969-12-01", "1970-01-01"),
        ("1q", "2023-10-01", "2024-01-01"),
        ("3mo", "2024-01-01", "2024-04-01"),
        ("1y", "2024-01-01", "2025-01-01"),
        ("1y", "1949-01-01", "1950-01-01"),
    ],
)
def test_calendar_windows_begin_and_end_at_calendar_dates(text: str, begin: str, end: str) -> None:
    freq = Frequency.parse(text)
    start_us, end_us = (us(datetime.fromisoformat(at).replace(tzinfo=UTC)) for at in (begin, end))
    assert freq.window_of(start_us) == freq.window_of(end_us - 1)
    assert freq.start_us(freq.window_of(start_us)) == start_us
    assert freq.end_us(freq.window_of(start_us)) == end_us


def test_the_smallest_int64_time_precedes_windows_since_1600() -> None:
    never = np.array([np.iinfo(np.int64).min])
    for freq in FIXED + WEEKS + CALENDAR:
        assert freq.window_of(never)[0] - 1 < freq.window_of(us(datetime(1600, 1, 1, tzinfo=UTC)))


@given(frequencies)
def test_parsing_the_text_of_a_frequency_restores_the_frequency(freq: Frequency) -> None:
    assert Frequency.parse(str(freq)) == freq


@pytest.mark.parametrize(
    ("text", "named", "nominal_s"),
    [
        ("60m", "1h", 3600),
        ("1d12h", "36h", 129_600),
        ("7d", "1w", 604_800),
        ("3mo", "1q", 3 * 2_629_746),
        ("12mo", "1y", 31_556_952),
        ("2mo", "2mo", 2 * 2_629_746),
    ],
)
def test_parsed_frequencies_have_canonical_names_and_nominal_lengths(
    text: str, named: str, nominal_s: int
) -> None:
    freq = Frequency.parse(text)
    assert (str(freq), freq.nominal_s) == (named, nominal_s)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0s", "longer than 0: write 1h"),
        ("0mo", "longer than 0: write 1h"),
        ("1mo15d", "one number and one unit"),
        ("1h1q", "one number and one unit"),
        ("month", "1mo, 3mo, 1q or 1y"),
        ("-1d", "is no duration"),
        (
            "1",
            "has no unit: write 1s, 1m, 1h or 1d; for a count of steps write 1s and set data.time_format",
        ),
        ("500y", "longer than 100 years"),
    ],
)
def test_invalid_frequencies_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowConfig(freq=text)


def test_a_lateness_in_months_is_refused() -> None:
    with pytest.raises(ValueError, match="no duration"):
        WindowConfig(allowed_lateness="1mo")


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("W", "1w-sun"),
        ("1W", "1w-sun"),
        ("W-SUN", "1w-sun"),
        ("w-mon", "1w-mon"),
        ("2W-WED", "2w-wed"),
        ("1w-sun", "1w-sun"),
        ("1w", "1w"),
        ("15min", "15m"),
        ("30T", "30m"),
        ("H", "1h"),
        ("D", "1d"),
        ("S", "1s"),
        ("MS", "1mo"),
        ("3ME", "3mo"),
        ("QS-OCT", "1q"),
        ("QE-DEC", "1q"),
        ("A-DEC", "1y"),
        ("YS", "1y"),
        ("60m", "60m"),
    ],
)
def test_pandas_frequency_names_are_converted_to_statecast_names(text: str, own: str) -> None:
    assert WindowConfig(freq=text).freq == own
    assert Frequency.parse(text) == Frequency.parse(own)


def test_windows_begin_at_the_dates_that_pandas_generates() -> None:
    import pandas as pd  # type: ignore[import-untyped]

    for alias in ("W", "W-MON", "W-SAT", "D", "h", "15min", "MS", "QS", "YS"):
        dates = pd.date_range("2019-01-01", periods=20, freq=alias, tz="UTC")
        freq = Frequency.parse(alias)
        starts = freq.start_us(freq.window_of(us(dates[0].to_pydatetime())) + np.arange(20))
        assert starts.tolist() == [us(date.to_pydatetime()) for date in dates], alias


def test_a_week_frequency_without_a_weekday_begins_on_thursday() -> None:
    plain = Frequency.parse("1w")
    assert plain == Frequency(WEEK_S) == Frequency.parse("1w-thu")
    assert datetime.fromtimestamp(plain.start_us(2500) / 1e6, UTC).strftime("%a") == "Thu"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("M", "1m for minutes, 1mo for months"),
        ("3M", "3m for minutes, 3mo for months"),
        ("W-XYZ", "write 1w-sun"),
        ("QS-FEB", "begin in January"),
        ("A-JUN", "begin in January"),
        ("B", "1w-sun for weeks that begin on Sundays"),
        ("w", "1w-sun for weeks that begin on Sundays"),
        ("0w-sun", "longer than 0: write 1h"),
        ("9999w", "longer than 100 years"),
    ],
)
def test_the_error_for_an_unsupported_frequency_gives_a_hint(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowConfig(freq=text)


def test_the_time_step_of_a_labeller_must_have_a_fixed_length() -> None:
    assert (fixed_s("15min"), fixed_s("1d12h")) == (900, 129_600)
    for text in ("1mo", "1w-sun", "QS"):
        with pytest.raises(ValueError, match="follows the calendar or begins"):
            fixed_s(text)
