"""The phase of a window in the day, week, month and year, as points on a circle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from forecaster.arrays import Floats, Floats32, Ints
from forecaster.time.frequency import Frequency

_DAY_S = 86_400
_PERIODS_S: Mapping[str, int] = {
    "day": _DAY_S,
    "week": 7 * _DAY_S,
    "month": 30 * _DAY_S,
    "year": 365 * _DAY_S,
}
_US = 1_000_000


def useful_periods(freq: Frequency, windows: int) -> tuple[str, ...]:
    """Return the periods to use as features: at least two windows and at most the history in length.

    In a longer period, no phase occurs twice in the history. So a network cannot learn a season from it, and
    every forecast would be for a phase that the training did not include.
    """
    span_s = freq.nominal_s * windows
    return tuple(name for name, period_s in _PERIODS_S.items() if 2 * freq.nominal_s <= period_s <= span_s)


def calendar(windows: Ints, freq: Frequency, periods: Sequence[str]) -> Floats32:
    """Return sine and cosine of each period's phase at the start of each window.

    Months and years are calendar months and years, in UTC: the first of a month is phase 0, and the length of
    the month does not matter.

    Returns:
        ``[..., 2 P]`` float32, for windows ``[...]`` and P periods.
    """
    found = np.empty((*windows.shape, 2 * len(periods)), np.float32)
    for i, period in enumerate(periods):
        angle = 2 * np.pi * _phase(windows, freq, period)
        found[..., 2 * i], found[..., 2 * i + 1] = np.sin(angle), np.cos(angle)
    return found


def _phase(windows: Ints, freq: Frequency, period: str) -> Floats:
    """Return the share of the period that has passed at the start of each window: at least 0, below 1."""
    begin_us = freq.start_us(windows)
    if period in ("day", "week"):
        period_us = _PERIODS_S[period] * _US
        phase: Floats = begin_us % period_us / period_us
        return phase
    unit = "M" if period == "month" else "Y"
    at = begin_us.astype("datetime64[us]")
    first = at.astype(f"datetime64[{unit}]")
    length = (first + 1).astype("datetime64[us]") - first.astype("datetime64[us]")
    share: Floats = (at - first.astype("datetime64[us]")) / length
    return share
