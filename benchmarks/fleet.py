"""What every phase works on: the same fleet of series, the same network, the same window length."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecaster.config import NetworkConfig, WindowConfig
from forecaster.model import Forecaster
from forecaster.windows import MICROSECONDS
from pipelines.sources.feeds import Input
from pipelines.sources.tables import Columns

SERIES = 10_000
FREQ_S = 3600
START = 1_735_689_600 // FREQ_S  # 2025-01-01 00:00 UTC, as a window index
INPUT = Input(Columns())

_DAY = 86_400 // FREQ_S


def forecaster() -> Forecaster:
    """The network of the design (LSTM, two layers of 64, 24 horizons, 3 quantiles) with random weights."""
    return Forecaster.untrained(NetworkConfig(), WindowConfig(freq=f"{FREQ_S}s"))


def names() -> tuple[str, ...]:
    """The ids of the fleet, sorted."""
    return tuple(f"series-{i:05d}" for i in range(SERIES))


def values(windows: int, seed: int = 0) -> NDArray[np.float64]:
    """``[windows, SERIES]``: random walks with a daily cycle, each at a level of its own."""
    rng = np.random.default_rng(seed)
    level, cycle, phase = rng.normal(100, 30, SERIES), rng.uniform(1, 5, SERIES), rng.uniform(0, 24, SERIES)
    walk = rng.normal(0, 0.5, (windows, SERIES)).cumsum(axis=0)
    hour = np.arange(windows)[:, None]
    daily = cycle * np.sin(2 * np.pi * (hour + phase) / _DAY)
    return np.asarray(level + daily + walk, np.float64)


def frame(windows: int) -> pl.DataFrame:
    """The fleet as observations, a row a series and window, in the order of time."""
    at_us = (START + np.arange(windows)) * FREQ_S * MICROSECONDS
    return pl.DataFrame(
        {
            "series_id": pl.concat([pl.Series(names())] * windows),
            "timestamp": pl.Series(np.repeat(at_us, SERIES)).cast(pl.Datetime("us", "UTC")),
            "value": values(windows).reshape(-1),
        }
    )
