"""Collect notices about the rows that a source reads, and pass them on to the job through a file.

The source may run in another process than the job, so it writes the notices into the output folder.
"""

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
from pipelines.storage import Location, make_folder, write_text
from schemas import observations


@dataclass(frozen=True)
class Notes:
    """The file for a source's notices about its rows, and the settings that the notices depend on.

    Attributes:
        path: path of the file.
        windows: settings of the windows that aggregate the rows.
    """

    path: Location
    windows: WindowConfig


class Looked:
    """Collects the notices about rows that arrive in pieces; a training reports the same notices."""

    def __init__(self, notes: Notes) -> None:
        """Begin without rows."""
        self._notes = notes
        self._codes = Codes()
        self._filled: NDArray[np.int64] = np.empty(0, np.int64)
        self._days = observations.empty().select("timestamp")  # one row for each weekday that occurs

    def add(self, rows: pl.DataFrame) -> None:
        """Add the observations of one piece."""
        if not len(rows):
            return
        freq, times = self._notes.windows.frequency, rows.select("timestamp")
        windows = times.select(freq.window(pl.col("timestamp"))).to_series().unique().to_numpy()
        self._filled = np.union1d(self._filled, windows.astype(np.int64))
        self._days = pl.concat([self._days, times]).unique(pl.col("timestamp").dt.weekday())
        self._codes.add(rows)

    def write(self) -> None:
        """Write the notices about all rows; ignore a file that cannot be written, as notices are optional."""
        windows = self._notes.windows
        weekday = weekday_notice(self._days, windows)
        lines = [
            *self._codes.notices(),
            *([weekday] if weekday else []),
            *window_notices(self._filled, windows),
        ]
        with suppress(OSError):
            make_folder(self._notes.path.parent)
            write_text(self._notes.path, json.dumps(lines))


def read_notices(path: Location) -> tuple[str, ...]:
    """Return the notices that a source has written; none if it has not read all rows."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return ()
    return tuple(map(str, found)) if isinstance(found, list) else ()
