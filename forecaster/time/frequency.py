"""A `Frequency` is the length of windows; it converts times to windows, and windows to times.

Windows are counted from 1970-01-01 in UTC, a Thursday. Weeks anchored to a weekday are counted from the first
such weekday; months, quarters and years are calendar ones. All code that turns times into windows, or windows
into times, uses a `Frequency`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    import polars as pl  # polars and numpy are imported only when needed, so that settings load quickly

    from forecaster.arrays import Ints


_US = 1_000_000
_UNITS_S = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(\d+)([smhdw])")
_OWN = re.compile(rf"({_DURATION.pattern})+")
_UNITS_MONTHS = {"y": 12, "q": 3, "mo": 1}
_MONTHS = re.compile(r"(\d+)(mo|q|y)")
_MONTH_S = 2_629_746  # an average month has this many seconds: 400 years are 146,097 days
_LONGEST_MONTHS = 1200
_LEAST_US = -(1 << 62)
DAY_S, WEEK_S = 86_400, 604_800
# The index of a weekday is the number of days from 1970-01-01, a Thursday, to the first such weekday.
WEEKDAYS = ("thu", "fri", "sat", "sun", "mon", "tue", "wed")
_WEEK = re.compile(rf"(\d+)w-({'|'.join(WEEKDAYS)})")
_ALIAS = re.compile(r"(\d*)([A-Za-z]+)(?:-([A-Za-z]{3}))?")
_PANDAS_UNITS = (
    {"s": "s", "S": "s", "min": "m", "T": "m", "h": "h", "H": "h", "d": "d", "D": "d"}
    | {"MS": "mo", "ME": "mo", "QS": "q", "QE": "q", "Q": "q"}
    | dict.fromkeys(("YS", "AS", "YE", "Y", "A"), "y")
)
_STARTS_OF_QUARTERS, _ENDS_OF_QUARTERS = ("JAN", "APR", "JUL", "OCT"), ("MAR", "JUN", "SEP", "DEC")
# Pandas' quarters and years are calendar quarters and calendar years only with these anchor months.
_ANCHORS = {
    "QS": _STARTS_OF_QUARTERS,
    "QE": _ENDS_OF_QUARTERS,
    "Q": _ENDS_OF_QUARTERS,
    "YS": _STARTS_OF_QUARTERS[:1],
    "AS": _STARTS_OF_QUARTERS[:1],
    "YE": _ENDS_OF_QUARTERS[-1:],
    "Y": _ENDS_OF_QUARTERS[-1:],
    "A": _ENDS_OF_QUARTERS[-1:],
}


def duration_s(text: str) -> int:
    """Return the whole seconds of a duration such as ``"15m"``, ``"1h"`` or ``"1d12h"``.

    Raises:
        ValueError: ``text`` is not a sequence of whole numbers with a unit of s, m, h, d or w.
    """
    parts = _DURATION.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise ValueError(f"{text!r} is no duration: write 30s, 15m, 1h, 1d or 1d12h")
    return sum(int(n) * _UNITS_S[u] for n, u in parts)


def plain_name(text: str) -> str:
    """Return a frequency in our own notation, in which pandas' ``"W-SUN"`` is ``"1w-sun"``.

    A week of pandas is named after the day of its dates, so the windows begin on that day, and ``"W"`` is
    ``"W-SUN"``. A text that is not an alias of pandas is returned as it is.

    Raises:
        ValueError: pandas reads ``text`` as windows that are not supported.
    """
    found = _ALIAS.fullmatch(text)
    if found is None or _is_own(text):
        return text
    count, name, anchor = found[1] or "1", found[2], found[3]
    if name == "W" or (name == "w" and anchor):
        weekday = (anchor or "sun").lower()
        if weekday not in WEEKDAYS:
            raise ValueError(f"{text!r} names no day: write 1w-sun, 1w-mon, ..., 1w-sat")
        return f"{count}w-{weekday}"
    if name == "M" and anchor is None:
        raise ValueError(
            f"{text!r} could be minutes or months: write {count}m for minutes, {count}mo for months"
        )
    if name not in _PANDAS_UNITS:
        return text
    if anchor and anchor.upper() not in _ANCHORS.get(name, ()):
        raise ValueError(
            f"{text!r} is not supported: leave out -{anchor} (years and their quarters begin in January)"
        )
    return f"{count}{_PANDAS_UNITS[name]}"


def _is_own(text: str) -> bool:
    """Return True if a text is a frequency in our own notation."""
    return any(pattern.fullmatch(text) for pattern in (_OWN, _MONTHS, _WEEK))


@dataclass(frozen=True)
class Frequency:
    """The length of windows: window ``k`` begins at ``start_us(k)`` and ends before ``start_us(k + 1)``.

    Attributes:
        seconds: length in seconds; 0 for months, quarters and years.
        months: length in months: 1, 3 (quarters) or 12 (years), for example; 0 if the length is in seconds.
        offset_s: start of window 0, in seconds after 1970-01-01: for anchored weeks a multiple of a day that
            is less than a week, else 0.
    """

    seconds: int
    months: int = 0
    offset_s: int = 0

    @staticmethod
    @lru_cache(maxsize=64)  # jobs parse the text of their frequency for every batch
    def parse(text: str) -> Frequency:
        """Return the frequency of a text such as ``"15m"``, ``"1d12h"``, ``"1w-sun"``, ``"1mo"`` or ``"1q"``.

        Aliases of pandas are accepted too (see `plain_name`). A plain ``"1w"`` begins on Thursdays, as
        1970-01-01 was one.

        Raises:
            ValueError: ``text`` is not a frequency, or its length is 0 or more than 100 years.
        """
        name = plain_name(text)
        if found := _MONTHS.fullmatch(name):
            frequency = Frequency(0, int(found[1]) * _UNITS_MONTHS[found[2]])
        elif found := _WEEK.fullmatch(name):
            offset_s = WEEKDAYS.index(found[2]) * DAY_S
            frequency = Frequency(int(found[1]) * _UNITS_S["w"], 0, offset_s)
        elif _OWN.fullmatch(name):
            frequency = Frequency(duration_s(name))
        elif name.isdecimal():
            raise ValueError(
                f"{text!r} has no unit: write {text}s, {text}m, {text}h or {text}d; for a count of steps "
                f"write {text}s and set data.time_format = 's'"
            )
        elif re.search(r"\d(mo|q|y)", name):
            raise ValueError(
                f"{text!r} is no frequency: write one number and one unit, such as 1mo, 3mo, 1q or 1y"
            )
        else:
            raise ValueError(
                f"{text!r} is no duration: write 30s, 15m, 1h, 1d or 1d12h; 1w-sun for weeks that begin on "
                "Sundays; 1mo, 3mo, 1q or 1y for calendar months, quarters or years"
            )
        if not frequency.nominal_s:
            raise ValueError(f"{text!r} is not longer than 0: write 1h, 1d or 1mo")
        if frequency.nominal_s > _LONGEST_MONTHS * _MONTH_S:
            raise ValueError(f"{text!r} is longer than 100 years")
        return frequency

    def __str__(self) -> str:
        length, units = (self.months, _UNITS_MONTHS) if self.months else (self.seconds, _UNITS_S)
        unit = next(u for u, size in units.items() if length % size == 0 and (length or size == 1))
        anchor = f"-{WEEKDAYS[self.offset_s // DAY_S]}" if self.offset_s else ""
        return f"{length // units[unit]}{unit}{anchor}"

    @property
    def is_calendar(self) -> bool:
        """Whether windows are months, quarters or years, which differ in length."""
        return self.months > 0

    @property
    def nominal_s(self) -> int:
        """The length of a window in seconds, for rates; an average for months, quarters and years."""
        return self.months * _MONTH_S if self.months else self.seconds

    @overload
    def window_of(self, us: int) -> int: ...
    @overload
    def window_of(self, us: Ints) -> Ints: ...
    def window_of(self, us: int | Ints) -> int | Ints:
        """Return the window to which a time, in microseconds since 1970, belongs."""
        if not self.months:
            # Clip the time first: the smallest int64, less the offset, would overflow.
            cut = us if isinstance(us, int) else us.clip(_LEAST_US)
            return (cut - self.offset_s * _US) // (self.seconds * _US)
        import numpy as np

        # Clip the time first: the smallest int64 would become NaT, which belongs to no window.
        at = np.maximum(us, _LEAST_US).astype("datetime64[us]").astype("datetime64[M]")
        found = at.astype(np.int64) // self.months
        return found if isinstance(us, np.ndarray) else int(found)

    def window(self, timestamp: pl.Expr) -> pl.Expr:
        """Return an expression for the window (Int64) to which each time belongs."""
        if not self.months:
            since_first = timestamp.dt.epoch("us") - self.offset_s * _US
            return since_first.floordiv(self.seconds * _US)
        months = (timestamp.dt.year() - 1970) * 12 + timestamp.dt.month() - 1
        return months.floordiv(self.months).cast(int)

    @overload
    def start_us(self, window: int) -> int: ...
    @overload
    def start_us(self, window: Ints) -> Ints: ...
    def start_us(self, window: int | Ints) -> int | Ints:
        """Return when a window begins, in microseconds since 1970."""
        if not self.months:
            return window * (self.seconds * _US) + self.offset_s * _US
        import numpy as np

        month = np.asarray(window * self.months, np.int64)
        begin = month.astype("datetime64[M]").astype("datetime64[us]").astype(np.int64)
        return begin if isinstance(window, np.ndarray) else int(begin)

    @overload
    def end_us(self, window: int) -> int: ...
    @overload
    def end_us(self, window: Ints) -> Ints: ...
    def end_us(self, window: int | Ints) -> int | Ints:
        """Return when a window ends and its forecasts are issued, in microseconds since 1970."""
        return self.start_us(window + 1)

    def last_closed(self, watermark_us: int) -> int:
        """Return the last window whose end the watermark has reached."""
        return self.window_of(watermark_us) - 1


def fixed_s(text: str) -> int:
    """Return a frequency's length in seconds; the frequency must not follow the calendar or a named weekday.

    Raises:
        ValueError: ``text`` is not a frequency, or its windows are anchored weeks, months, quarters or years.
    """
    found = Frequency.parse(text)
    if found.is_calendar or found.offset_s:
        raise ValueError(
            f"{text!r} follows the calendar or begins on a named weekday: write a length such as 30s, 15m, "
            "1h, 1d or 1w"
        )
    return found.seconds
