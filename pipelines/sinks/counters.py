"""Define the counters of a job, which Prometheus and Beam show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Final

from forecaster.shards.counts import Counts

ROWS_BY_OUTCOME: Final[Mapping[str, Callable[[Counts], int]]] = {
    "used": attrgetter("used"),
    "quarantined": attrgetter("rejected"),
    "duplicate": attrgetter("duplicates"),
    "late": attrgetter("late"),
    "outside": attrgetter("outside"),
}
"""Computes the number of rows of each outcome. The names of outcomes are public."""

TOTALS: Final[Mapping[str, tuple[str, Callable[[Counts], int]]]] = {
    "rows_in": ("Rows read inside the job's time bounds.", attrgetter("rows_in")),
    "rows_replaced": ("Rows that a later row with another value replaced.", attrgetter("replaced")),
    "rows_repaired": ("Late rows that were used, see windows.repair.", attrgetter("repaired")),
    "bad_files": ("Files that could not be read.", attrgetter("bad_files")),
    "windows_closed": ("Windows closed.", attrgetter("windows")),
    "series_steps": ("Steps of a series by a window.", attrgetter("series_steps")),
    "cold_starts": ("Series that began anew after windows.max_gap.", attrgetter("cold_starts")),
}
"""The help text of each other counter, and how to compute its value. The names are public."""
