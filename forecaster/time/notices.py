"""Notices for users about windows: long gaps, a wrong weekday, and windows that are too short or too long."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecaster.time.aggregation import kept_windows
from forecaster.time.frequency import DAY_S, WEEK_S, WEEKDAYS, Frequency
from forecaster.time.infer_freq import infer_freq
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import MICROSECONDS
from schemas.errors import DataError

_FEWEST_STEPS = 3
_MANY_ROWS = 60
# Users get a notice if successive rows are usually at least this many windows apart, because many windows
# are then empty. There is no such notice if empty windows count as 0 (``windows.empty``).
_MANY_WINDOWS = 10

_DAYS_OF_ISO = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def weekday_notice(rows: pl.DataFrame, config: WindowConfig) -> str | None:
    """Return a notice if all rows are on one weekday, but windows of whole weeks begin on another weekday.

    Forecasts are dated to the beginnings of windows, so their dates would match no row. Else return None.
    """
    freq = config.frequency
    if freq.seconds % WEEK_S or freq.is_calendar or not len(rows):
        return None
    days = rows["timestamp"].dt.weekday().unique()
    begins = WEEKDAYS[freq.offset_s // DAY_S]
    dated = _DAYS_OF_ISO[days[0] - 1]
    if len(days) > 1 or dated == begins:
        return None
    weeks = freq.seconds // WEEK_S
    return (
        f"all rows are dated to the same weekday ({dated}), and the weeks of {config.freq} begin on another "
        f"({begins}): forecasts get dates that no row has; use --freq {weeks}w-{dated}"
    )


def misfit_notice(rows: pl.DataFrame, config: WindowConfig) -> str | None:
    """Return a notice if windows are at least 10 times shorter, or 60 times longer, than the usual row gap.

    Return None for other windows. Windows are not too short if empty ones count as 0, and not too long if
    rows are summed or counted.

    Args:
        rows: observation frame.
        config: the length of the windows.
    """
    try:
        usual = infer_freq(rows).freq
    except DataError:
        return None
    share = config.frequency.nominal_s / Frequency.parse(usual).nominal_s
    if share * _MANY_WINDOWS <= 1 and config.empty == "missing":
        return (
            f"rows are usually {1 / share:,.0f} windows of {config.freq} apart, so {1 - share:.0%} of the "
            f"windows are empty: train with longer windows, such as --freq {usual}"
        )
    if share >= _MANY_ROWS and config.aggregate not in ("count", "sum"):
        return (
            f"windows of {config.freq} hold about {share:,.0f} rows of each series, which are usually "
            f"{usual} apart, and keep their {config.aggregate}; to forecast every row use --freq {usual}"
        )
    return None


def gap_notices(filled: NDArray[np.int64], config: WindowConfig) -> list[str]:
    """Return a list with a notice about the windows that are skipped, because no series is live in them.

    The list is empty if no window is skipped. The arguments are as in `window_notices`. A training
    reports windows that are too short before it begins; see `misfit_notice`.
    """
    index = kept_windows(filled, config.max_gap)
    left_out = np.diff(index) - 1
    if not left_out.any():
        return []
    row = int(left_out.argmax())
    around_us = config.frequency.start_us(index[row : row + 2])
    before, after = (str(np.datetime64(int(us), "us").astype("datetime64[D]")) for us in around_us)
    notice = (
        f"{int(left_out.sum()):,} windows in which no series had rows for long are left out, most of them "
        f"between {before} and {after}: if the series had no pause there, check the times of the rows"
    )
    return [notice]


def window_notices(filled: NDArray[np.int64], config: WindowConfig) -> list[str]:
    """Return notices about long gaps that all series share, and about windows too short for the rows.

    Args:
        filled: ``[n]`` int64, the windows in which any series has a row, rising.
        config: length of the windows, and after how many without a row a series retires.
    """
    return [*gap_notices(filled, config), *_short_notices(filled, config)]


def _short_notices(filled: NDArray[np.int64], config: WindowConfig) -> list[str]:
    """Return at most one notice, which reports that windows are too short; see `_MANY_WINDOWS`."""
    steps = np.diff(filled)
    if config.empty != "missing" or len(steps) < _FEWEST_STEPS:
        return []
    if (usual := int(np.median(steps))) < _MANY_WINDOWS:
        return []
    step_s = usual * config.frequency.nominal_s
    days, weekday = step_s // DAY_S, int(config.frequency.start_us(filled[:1])[0]) // MICROSECONDS // DAY_S
    longer = f"{days}d" if days else f"{step_s // 3600}h" if step_s >= 3600 else f"{max(step_s // 60, 1)}m"
    if days and days % 7 == 0:
        longer = f"{days // 7}w-{WEEKDAYS[weekday % 7]}"
    empty = 1 - len(filled) / len(kept_windows(filled, config.max_gap))
    notice = (
        f"rows are usually {usual:,} windows of {config.freq} apart, so {empty:.0%} of "
        f"the windows are empty: train with longer windows, such as --freq {longer}"
    )
    return [notice]
