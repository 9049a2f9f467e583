"""Baseline forecasts: the last value, and the last value of the same phase of the season.

Letters: T issue rows, S series, N horizon.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from forecaster.components.season import likely_season, windows_ago
from forecaster.forecasts import Forecasts
from forecaster.state import Floats, Ints
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows, observed


def persistence(windows: Windows, config: WindowConfig, horizon: int) -> pl.DataFrame:
    """Return a forecast frame with the last value as the forecast at every horizon (column ``q50`` only)."""
    return _frame("persistence", windows, config, _last(horizon))


def seasonal_naive(windows: Windows, config: WindowConfig, horizon: int) -> pl.DataFrame:
    """Return a forecast frame: the forecast of a window is the last value at the same phase of the season.

    It has the column ``q50`` only. A missing value is replaced by the last value before it (Hyndman &
    Athanasopoulos, "Forecasting: Principles and Practice", section 5.2). If the phase of a horizon is before
    the series' first value, its ``q50`` is null.
    """
    return _frame("seasonal naive", windows, config, _same_phase(config, horizon))


def baseline_points(
    windows: Windows, filled: Floats, rows: Ints, config: WindowConfig, horizon: int
) -> dict[str, Floats]:
    """Return the forecasts of both baselines, by name; NaN where a series has no value to repeat yet.

    They are ``[T, S, N]``: by issue row, series and horizon.

    Args:
        windows: the windows that contain the rows.
        filled: ``[rows, S]`` the last value at the end of every row (see `last_values`).
        rows: the ``T`` rows at whose end a forecast is issued.
        config: length of a window.
        horizon: N.
    """
    backs = {"persistence": _last(horizon), "seasonal_naive": _same_phase(config, horizon)}
    return {name: _values_ago(windows, filled, rows, back) for name, back in backs.items()}


def last_values(values: Floats) -> Floats:
    """Return, for each window and series, the last value observed so far; NaN before the first value."""
    row = np.where(np.isnan(values), -1, np.arange(len(values))[:, None])
    row = np.maximum.accumulate(row, axis=0)
    return np.where(row >= 0, np.take_along_axis(values, np.maximum(row, 0), axis=0), np.nan)


def _last(horizon: int) -> Ints:
    """Return how many windows before the issue row the value of persistence lies: 0 at every horizon."""
    return np.zeros(horizon, np.int64)


def _same_phase(config: WindowConfig, horizon: int) -> Ints:
    """Return how many windows before the issue row the phase of the target window last occurred.

    The target window is the window that is forecast. The result has one number for each horizon.
    """
    return windows_ago(likely_season(config.frequency), horizon)


def _values_ago(windows: Windows, filled: Floats, rows: Ints, back: Ints) -> Floats:
    """Return forecasts that repeat past values, by issue row, series and horizon.

    The forecast at horizon n is the number in ``filled`` for the window ``back[n - 1]`` windows before the
    issue row; NaN if the series has no value up to that window.
    """
    # ``row`` holds the row of the value that each forecast repeats; -1 if there is no such row.
    # The axes of ``row`` are issue row and horizon.
    row = windows.row_of(windows.index[rows][:, None] - back[None, :])
    values = filled[np.maximum(row, 0)].swapaxes(1, 2)
    return np.where((row >= 0)[:, None, :], values, np.nan)


def _frame(name: str, windows: Windows, config: WindowConfig, back: Ints) -> pl.DataFrame:
    """Return a frame of forecasts that repeat past values.

    The forecast at horizon n is the value last known ``back[n - 1]`` windows before the issue row.
    """
    last = last_values(observed(windows, config).values)
    values = _values_ago(windows, last, np.arange(len(last)), back)
    issued = ~np.isnan(last)
    forecasts = Forecasts(
        name,
        config.frequency,
        (0.5,),
        windows.series_ids,
        windows.start,
        values[None],
        issued,
        index=windows.index,
    )
    value = pl.element().struct.field("q50").fill_nan(None)
    return forecasts.frame().with_columns(
        pl.col("forecast").list.eval(pl.element().struct.with_fields(value))
    )
