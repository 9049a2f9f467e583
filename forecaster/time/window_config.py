"""The settings of windows: length, how rows become values, which late rows count, when a series retires."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from forecaster.setting_types import MOST_WINDOWS, Settings
from forecaster.time.frequency import Frequency, duration_s, plain_name


def _is_duration(text: str) -> str:
    duration_s(text)
    return text


def _is_frequency(text: str) -> str:
    Frequency.parse(text)
    return plain_name(text)  # store our notation: W-SUN and 1w-sun must give the same model version


Duration = Annotated[str, AfterValidator(_is_duration)]


class WindowConfig(Settings):
    """The settings of windows: their length and values, which late rows count, and when a series retires."""

    freq: Annotated[str, AfterValidator(_is_frequency)] = Field(
        "1h",
        description="length of a window: 30s, 15m, 1h, 1d, 1mo, 1q, 1y, or 1w-sun for weeks that begin on "
        "Sundays (where the rows are dated to Sundays); plain 1w begins on Thursdays; a training "
        "or evaluation that is given none finds it from the rows",
    )
    aggregate: Literal["mean", "sum", "count", "min", "max", "last"] = Field(
        "mean", description="what a window keeps of its rows: mean, sum, count, min, max or last"
    )
    empty: Literal["missing", "zero"] = Field(
        "missing", description="a window without rows is missing, or zero (counts of events)"
    )
    allowed_lateness: Duration = Field(
        "0s", description="how long after newer rows an older one may still arrive"
    )
    repair: int = Field(
        0,
        ge=0,
        le=10_000,
        description="a stream, or a replay of the quarantine, uses late rows that are at most this many "
        "windows old, and issues revised forecasts; 0: late rows are not used",
    )
    max_gap: int = Field(
        672,
        ge=1,
        le=MOST_WINDOWS,
        description="a series that had no row for more windows than this is no longer forecast; "
        "when it comes back it starts cold",
    )

    @property
    def frequency(self) -> Frequency:
        """The length of a window."""
        return Frequency.parse(self.freq)

    @property
    def lateness_s(self) -> int:
        """The allowed lateness in seconds."""
        return duration_s(self.allowed_lateness)
