"""The input of all benchmarks: a fleet of series with windows of an hour, and untrained forecasters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forecaster.config import NetworkConfig, OnlineConfig
from forecaster.model import Forecaster
from forecaster.time.frequency import Frequency
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import MICROSECONDS
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input

FREQ_S = 3600
FREQ = Frequency(FREQ_S)
START = 1_735_689_600 // FREQ_S  # 2025-01-01 00:00 UTC, as a window index
INPUT = Input(Columns())

_DAY = 86_400 // FREQ_S
_AT_ONCE = 1_000_000  # rows generated at a time


@dataclass(frozen=True)
class Fleet:
    """Random walks with a daily cycle at different levels, with one row for each series and window.

    Attributes:
        series: number of series.
        missing: share of rows that are missing.
        late_born: share of series that begin after the first window.
    """

    series: int = 10_000
    missing: float = 0.0
    late_born: float = 0.0

    def values(self, windows: int, seed: int = 0) -> NDArray[np.float64]:
        """Return values ``[windows, series]``; NaN where a row is missing."""
        rng, series = np.random.default_rng(seed), self.series
        level, cycle, phase = (
            rng.normal(100, 30, series),
            rng.uniform(1, 5, series),
            rng.uniform(0, 24, series),
        )
        walk = rng.normal(0, 0.5, (windows, series)).cumsum(axis=0)
        hour = np.arange(windows)[:, None]
        values = level + cycle * np.sin(2 * np.pi * (hour + phase) / _DAY) + walk
        if self.missing:
            values[rng.random(values.shape) < self.missing] = np.nan
        if self.late_born:
            born = np.where(rng.random(series) < self.late_born, rng.integers(1, windows, series), 0)
            values[hour < born] = np.nan
        return np.asarray(values, np.float64)

    def frames(self, windows: int) -> Iterator[pl.DataFrame]:
        """Yield the observations in time order, several windows at a time."""
        values, at_once = self.values(windows), max(_AT_ONCE // self.series, 1)
        names = np.array([f"series-{i:07d}" for i in range(self.series)], dtype=object)
        for first in range(0, windows, at_once):
            part = values[first : first + at_once]
            at, which = np.nonzero(~np.isnan(part))
            yield pl.DataFrame(
                {
                    "series_id": pl.Series(names[which], dtype=pl.String),
                    "timestamp": pl.Series((START + first + at) * FREQ_S * MICROSECONDS).cast(
                        pl.Datetime("us", "UTC")
                    ),
                    "value": part[at, which],
                }
            )

    def write(self, path: Path, windows: int) -> Path:
        """Write the observations to one Parquet file and return its path."""
        with contextlib.ExitStack() as stack:
            writer = None
            for frame in self.frames(windows):
                table = frame.to_arrow()
                writer = writer or stack.enter_context(pq.ParquetWriter(path, table.schema))
                writer.write_table(table)
        return path

    def steps(self, windows: int) -> int:
        """Return the number of series-steps of a job: windows of each series from its first value on."""
        seen = ~np.isnan(self.values(windows))
        return int((windows - np.where(seen.any(axis=0), seen.argmax(axis=0), windows)).sum())


def forecaster() -> Forecaster:
    """Return only the recurrent network (LSTM, two layers of 64, 24 horizons, 3 quantiles), untrained."""
    alone = OnlineConfig(experts=(), intervals=False, alarms_per_week=0)
    return Forecaster.untrained(NetworkConfig(linear=False), WindowConfig(freq=f"{FREQ_S}s"), online=alone)


def whole() -> Forecaster:
    """Return a default forecaster: with linear forecasts in the network, experts, intervals and p-values."""
    return Forecaster.untrained(NetworkConfig(), WindowConfig(freq=f"{FREQ_S}s"))
