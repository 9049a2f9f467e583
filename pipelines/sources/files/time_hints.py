"""Suggest a setting for a column of times that cannot be read."""

from __future__ import annotations

import polars as pl

from schemas import cells, observations
from schemas.time_formats import from_pattern

_DAYS = (
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%d.%m.%Y",
    "%Y/%m/%d",
    "%d-%m-%Y",
    "%m/%d/%y",
    "%d/%m/%y",
    "%d.%m.%y",
    "%Y.%m.%d",
)
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")


def unreadable_times_message(column: pl.Series, time_format: str) -> str:
    """Return the error message for a column of times that cannot be read; it names a setting that helps."""
    known = column.filter(cells.given(column))
    first = pl.DataFrame({"series_id": ["a"], "timestamp": known.head(1), "value": [0.0]})
    reason = observations.validate(first, time_format)[1]["reason"][0]
    return f"none of the times in column {column.name!r} can be read: {reason}{_setting(known)}"


def _setting(known: pl.Series) -> str:
    words = cells.shown(known).str.strip_chars()
    days_and_clocks = ((day, clock) for day in _DAYS for clock in _CLOCKS)
    fitting = [day + clock for day, clock in days_and_clocks if _fits(words, day + clock)]
    if not fitting:
        return ""
    return ": set data.time_format = " + " or ".join(f"'{one}'" for one in fitting)


def _fits(words: pl.Series, pattern: str) -> bool:
    return from_pattern(words, pattern).is_not_null().all()
