"""How long windows are, and which window a moment lies in.

Windows are counted from 1970-01-01 in UTC. Everything that turns times into windows, or windows into times,
asks a `Frequency`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import overload

import numpy as np
import polars as pl
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_US = 1_000_000
_UNITS_S = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(\d+)([smhdw])")


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
        seconds: of a window.
    """

    seconds: int

    @staticmethod
    def parse(text: str) -> Frequency:
        """The frequency that people call ``"15m"``, ``"1h"`` or ``"1d12h"``.

        Raises:
            ValueError: it is none, or 0.
        """
        seconds = duration_s(text)
        if not seconds:
            raise ValueError("must be longer than 0s")
        return Frequency(seconds)

    def __str__(self) -> str:
        unit = next(u for u, s in _UNITS_S.items() if self.seconds % s == 0 and (self.seconds or u == "s"))
        return f"{self.seconds // _UNITS_S[unit]}{unit}"

    @property
    def nominal_s(self) -> int:
        """Seconds of a window, for rates and paces."""
        return self.seconds

    @overload
    def window_of(self, us: int) -> int: ...
    @overload
    def window_of(self, us: Ints) -> Ints: ...
    def window_of(self, us: int | Ints) -> int | Ints:
        """The window that a moment (microseconds since 1970) lies in."""
        return us // (self.seconds * _US)

    def window(self, timestamp: pl.Expr) -> pl.Expr:
        """The window that a Datetime lies in, as Int64."""
        return timestamp.dt.epoch("us").floordiv(self.seconds * _US)

    @overload
    def start_us(self, window: int) -> int: ...
    @overload
    def start_us(self, window: Ints) -> Ints: ...
    def start_us(self, window: int | Ints) -> int | Ints:
        """When a window begins, in microseconds since 1970."""
        return window * (self.seconds * _US)

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
