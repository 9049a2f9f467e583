"""Collect notices about the rows that a source reads, in a file that the job reads when it ends."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecaster.time.notices import weekday_notice, window_notices
from forecaster.time.window_config import WindowConfig
from pipelines.sources.files.missing_codes import Codes
from pipelines.storage import Location, store_of, write_text
from schemas import observations


@dataclass(frozen=True)
class Notes:
    """The settings of a `NoticeCollector`: the file it writes, and the settings of the job's windows.

    Attributes:
        path: the file.
        windows: the settings of the windows.
    """

    path: Location
    windows: WindowConfig


class NoticeCollector:
    """Collects notices about the rows of a source, from frames that are added one by one."""

    def __init__(self, notes: Notes) -> None:
        """Begin a collection of notices, without any rows yet."""
        self._notes = notes
        self._codes = Codes()
        self._filled: NDArray[np.int64] = np.empty(0, np.int64)
        # Keep only one time for each weekday: the notice about weekdays needs only the weekdays with rows.
        self._days = observations.empty().select("timestamp")

    def add(self, rows: pl.DataFrame) -> None:
        """Add ``rows``, a frame of observations, to the rows that the notices are about."""
        if not len(rows):
            return
        freq, times = self._notes.windows.frequency, rows.select("timestamp")
        windows = times.select(freq.window(pl.col("timestamp"))).to_series().unique().to_numpy()
        self._filled = np.union1d(self._filled, windows.astype(np.int64))
        self._days = pl.concat([self._days, times]).unique(pl.col("timestamp").dt.weekday())
        self._codes.add(rows)

    def write(self) -> None:
        """Write the notices about all added rows into the file; ignore an error of writing."""
        windows = self._notes.windows
        weekday = weekday_notice(self._days, windows)
        lines = [
            *self._codes.notices(),
            *([weekday] if weekday else []),
            *window_notices(self._filled, windows),
        ]
        with suppress(OSError):
            store_of(self._notes.path.parent).make_folder()
            write_text(self._notes.path, json.dumps(lines))


def read_notices(path: Location) -> tuple[str, ...]:
    """Return the notices that a source wrote into a file; empty if the file cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return ()
    return tuple(map(str, found)) if isinstance(found, list) else ()
