"""Find the length of the windows that fits the times of the rows."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from forecaster.time.frequency import DAY_S, WEEK_S, WEEKDAYS, Frequency
from schemas.errors import DataError

_US = 1_000_000
_USUAL_S: tuple[int, ...] = (1, 2, 5, 10, 15, 20, 30, 60, 120, 180, 300, 360, 600, 720, 900, 1200, 1800)
_USUAL_S += (3600, 7200, 10_800, 14_400, 21_600, 28_800, 43_200, DAY_S)
_CALENDAR_DAYS = {1: (28, 31), 3: (89, 92), 12: (365, 366)}
_MOST = 0.9  # "nearly all" steps means at least this share of the steps


class InferredFreq(NamedTuple):
    """The window length that was inferred from rows, and the reason for it.

    Attributes:
        freq: the length, in the notation of ``windows.freq``.
        reason: part of a sentence for the user, such as "100% of the rows follow the row before after 1h".
    """

    freq: str
    reason: str


def infer_freq(rows: pl.DataFrame) -> InferredFreq:
    """Return the window length that fits the times of the rows, and the reason for it.

    A step is the time between two consecutive rows of one series. The usual step is the median of the steps
    of each series, and then the median over the series. The rule has four parts:

    1. If nearly all steps are one calendar month, quarter or year, this is the length.
    2. If the usual step is a whole number of weeks, the windows are weeks that begin on the most frequent
       weekday. If it is a whole number of days, the windows are days.
    3. If at least half of the steps equal the usual step and a day is a multiple of it, it is the length.
    4. Otherwise the rows are irregular, and the length is the nearest usual one: 1, 2, 5, 10, 15, 20 or 30
       seconds, 1, 2, 3, 5, 6, 10, 12, 15, 20 or 30 minutes, 1, 2, 3, 4, 6, 8 or 12 hours, or a day.

    Args:
        rows: observation frame.

    Raises:
        DataError: no series has two rows at different times.
    """
    times = rows.select("series_id", "timestamp").unique().sort("series_id", "timestamp")
    at = pl.col("timestamp")
    months = (at.dt.year() * 12 + at.dt.month()).cast(pl.Int64)
    steps = times.with_columns(
        step_us=at.dt.epoch("us").diff().over("series_id"), step_months=months.diff().over("series_id")
    ).drop_nulls()
    if not len(steps):
        raise DataError(
            "no series has two rows at different times, so no frequency can be found: give --freq"
        )
    by_series = steps.group_by("series_id").agg(pl.col("step_us").median())
    usual_us = int(by_series["step_us"].median() or 0)  # type: ignore[arg-type]
    share = float((steps["step_us"] == usual_us).mean())  # type: ignore[arg-type]
    if calendar := _calendar(steps, usual_us, share):
        return calendar
    freq_s, is_exact = _length_s(usual_us, share)
    freq = _weeks(times, freq_s) if freq_s % WEEK_S == 0 else str(Frequency(freq_s))
    if is_exact:
        return InferredFreq(freq, f"{share:.0%} of the rows follow the row before after {freq}")
    usual = f"{round(usual_us / _US, 3):,.15g}"
    return InferredFreq(
        freq, f"rows are irregular, usually {usual} s apart; this is the nearest usual length"
    )


def _calendar(steps: pl.DataFrame, usual_us: int, share: float) -> InferredFreq | None:
    """Return the frequency if nearly all steps last a month, a quarter or a year, else None."""
    days = usual_us / _US / DAY_S
    # Three or more equal steps of a whole number of weeks, such as 4 or 13, are not months or quarters.
    if share == 1.0 and days % 7 == 0 and len(steps) > 2:
        return None
    for months, (fewest, most) in _CALENDAR_DAYS.items():
        agree = float((steps["step_months"] == months).mean())  # type: ignore[arg-type]
        if fewest <= days <= most and agree >= _MOST:
            freq = str(Frequency(0, months))
            return InferredFreq(freq, f"{agree:.0%} of the rows follow the row before after {freq}")
    return None


def _length_s(usual_us: int, share: float) -> tuple[int, bool]:
    """Return the window length in seconds that fits the usual step, and whether the rows are regular.

    Args:
        usual_us: the usual step (see `infer_freq`) in microseconds.
        share: share of the steps that equal the usual step.
    """
    usual_s = usual_us / _US
    if usual_s >= DAY_S:
        return max(round(usual_s / DAY_S), 1) * DAY_S, share >= 0.5
    if share >= 0.5 and usual_s >= 1 and DAY_S % usual_s == 0:
        return int(usual_s), True
    return min(_USUAL_S, key=lambda length: max(length / usual_s, usual_s / length)), False


def _weeks(times: pl.DataFrame, freq_s: int) -> str:
    """Return a frequency such as ``2w-sun``, whose weeks begin on the most frequent weekday of the rows."""
    days_since_thursday = times["timestamp"].dt.epoch("d") % 7
    weekday = WEEKDAYS[int(days_since_thursday.mode().sort()[0])]
    return f"{freq_s // WEEK_S}w" + ("" if weekday == "thu" else f"-{weekday}")
