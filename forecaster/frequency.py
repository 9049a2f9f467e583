"""How long windows are, and which window a moment lies in.

Windows are counted from 1970-01-01 in UTC; those of months, quarters and years are the calendar's. Everything
that turns times into windows, or windows into times, asks a `Frequency`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl  # whoever reads settings needs none

Ints = NDArray[np.int64]

_US = 1_000_000
_UNITS_S = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(\d+)([smhdw])")
_UNITS_MONTHS = {"y": 12, "q": 3, "mo": 1}
_MONTHS = re.compile(r"(\d+)(mo|q|y)")
_MONTH_S = 2_629_746  # on average: 400 years are 146,097 days
_LONGEST_MONTHS = 1200
_LEAST_US = -(1 << 62)


def duration_s(text: str) -> int:
    """Whole seconds of a duration such as ``"15m"``, ``"1h"`` or ``"1d12h"``.

    Raises:
        ValueError: ``text`` is not a sequence of whole numbers with a unit of s, m, h, d or w.
    """
    parts = _DURATION.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise ValueError(f"{text!r} is no duration: write 30s, 15m, 1h, 1d or 1d12h")
    return sum(int(n) * _UNITS_S[u] for n, u in parts)


@dataclass(frozen=True)
class Frequency:
    """The length of windows: window ``k`` is ``[start_us(k), start_us(k + 1))``.

    Attributes:
        seconds: of a window; 0 where it is one of the calendar.
        months: of a window of the calendar: 1, 3 (quarters), 12 (years); 0 where it is so many seconds.
    """

    seconds: int
    months: int = 0

    @staticmethod
    def parse(text: str) -> Frequency:
        """The frequency that people call ``"15m"``, ``"1h"``, ``"1d12h"``, ``"1mo"``, ``"1q"`` or ``"1y"``.

        Raises:
            ValueError: it is none, or 0.
        """
        if found := _MONTHS.fullmatch(text):
            frequency = Frequency(0, int(found[1]) * _UNITS_MONTHS[found[2]])
        elif any(unit in text for unit in _UNITS_MONTHS):
            raise ValueError(f"{text!r} is no frequency: write 1mo, 3mo, 1q or 1y, and nothing beside it")
        else:
            frequency = Frequency(duration_s(text))
        if not frequency.nominal_s:
            raise ValueError("must be longer than nothing: 1h, 1d, 1mo")
        if frequency.months > _LONGEST_MONTHS:
            raise ValueError(f"{text!r} is longer than 100 years")
        return frequency

    def __str__(self) -> str:
        length, units = (self.months, _UNITS_MONTHS) if self.months else (self.seconds, _UNITS_S)
        unit = next(u for u, size in units.items() if length % size == 0 and (length or size == 1))
        return f"{length // units[unit]}{unit}"

    @property
    def is_calendar(self) -> bool:
        """Whether windows are months, quarters or years, of which no two need be of one length."""
        return self.months > 0

    @property
    def nominal_s(self) -> int:
        """Seconds of a window, on average over the calendar: for rates and paces."""
        return self.months * _MONTH_S if self.months else self.seconds

    @overload
    def window_of(self, us: int) -> int: ...
    @overload
    def window_of(self, us: Ints) -> Ints: ...
    def window_of(self, us: int | Ints) -> int | Ints:
        """The window that a moment (microseconds since 1970) lies in."""
        if not self.months:
            return us // (self.seconds * _US)
        # The least integer, which stands for "before everything", is no time to numpy.
        at = np.maximum(us, _LEAST_US).astype("datetime64[us]").astype("datetime64[M]")
        found = at.astype(np.int64) // self.months
        return found if isinstance(us, np.ndarray) else int(found)

    def window(self, timestamp: pl.Expr) -> pl.Expr:
        """The window that a Datetime lies in, as Int64."""
        if not self.months:
            return timestamp.dt.epoch("us").floordiv(self.seconds * _US)
        months = (timestamp.dt.year() - 1970) * 12 + timestamp.dt.month() - 1
        return months.floordiv(self.months).cast(int)

    @overload
    def start_us(self, window: int) -> int: ...
    @overload
    def start_us(self, window: Ints) -> Ints: ...
    def start_us(self, window: int | Ints) -> int | Ints:
        """When a window begins, in microseconds since 1970."""
        if not self.months:
            return window * (self.seconds * _US)
        month = np.asarray(window * self.months, np.int64)
        begin = month.astype("datetime64[M]").astype("datetime64[us]").astype(np.int64)
        return begin if isinstance(window, np.ndarray) else int(begin)

    @overload
    def end_us(self, window: int) -> int: ...
    @overload
    def end_us(self, window: Ints) -> Ints: ...
    def end_us(self, window: int | Ints) -> int | Ints:
        """When a window ends and its forecasts are issued, in microseconds since 1970."""
        return self.start_us(window + 1)

    def last_closed(self, watermark_us: int) -> int:
        """The last window whose end the watermark has reached."""
        return self.window_of(watermark_us) - 1
