"""What a forecast must beat: the last value, and the last value of the same time of day."""

from __future__ import annotations

import numpy as np
import polars as pl

from forecaster.config import WindowConfig
from forecaster.forecasts import Forecasts
from forecaster.state import Floats, Ints
from forecaster.windows import Windows, observed

_DAY_S, _WEEK_S = 86_400, 604_800


def persistence(windows: Windows, config: WindowConfig, horizon: int) -> pl.DataFrame:
    """Forecast frame in which every horizon is the last observed value (column ``q50`` only)."""
    return _frame("persistence", windows, config, np.zeros(horizon, np.int64))


def seasonal_naive(windows: Windows, config: WindowConfig, horizon: int) -> pl.DataFrame:
    """Forecast frame in which a horizon is the last value of its season's phase (column ``q50`` only).

    The season is a day, or a week where a window is a day or longer. A value that is missing is the last
    observed one before it (Hyndman & Athanasopoulos, "Forecasting: Principles and Practice", section 5.2). A
    horizon whose phase lies before the series' first value has no forecast: its ``q50`` is null.
    """
    season = max((_DAY_S if config.freq_s < _DAY_S else _WEEK_S) // config.freq_s, 1)
    ahead = np.arange(1, horizon + 1)
    return _frame("seasonal naive", windows, config, season * -(-ahead // season) - ahead)


def _frame(name: str, windows: Windows, config: WindowConfig, back: Ints) -> pl.DataFrame:
    """Forecasts that repeat the value ``back[n - 1]`` windows before the issue, for each horizon ``n``."""
    last = _filled(observed(windows, config).values)
    row = np.arange(len(last))[:, None] - back[None, :]  # [T, N]
    values = last[np.maximum(row, 0)].swapaxes(1, 2)  # [T, S, N]
    values = np.where((row >= 0)[:, None, :], values, np.nan)
    issued = ~np.isnan(last)
    forecasts = Forecasts(
        name, config.freq_s, (0.5,), windows.series_ids, windows.start, values[None], issued
    )
    value = pl.element().struct.field("q50").fill_nan(None)
    return forecasts.frame().with_columns(
        pl.col("forecast").list.eval(pl.element().struct.with_fields(value))
    )


def _filled(values: Floats) -> Floats:
    """The last observed value at each window's end; NaN before the first."""
    row = np.where(np.isnan(values), -1, np.arange(len(values))[:, None])
    row = np.maximum.accumulate(row, axis=0)
    return np.where(row >= 0, np.take_along_axis(values, np.maximum(row, 0), axis=0), np.nan)
