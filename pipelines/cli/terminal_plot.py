"""Plots made of characters, for the terminal."""

from __future__ import annotations

import polars as pl
from rich.text import Text

from forecaster.time.frequency import Frequency
from forecaster.time.windows import Windows

_ROWS = 18
_HISTORY = 3  # A plot shows windows before the forecasts: this many times as many as the horizon.


def fan_plot(windows: Windows, freq: str, forecasts: pl.DataFrame, columns: int) -> Text:
    """Draw the last values of one series, its forecasts, and their outermost quantiles.

    Args:
        windows: history of the series, and of others.
        freq: length of the windows.
        forecasts: flat forecasts of the series (`forecaster.forecasts.flat`).
        columns: width of the terminal in characters.

    Returns:
        The plot, with its colours.
    """
    import plotext

    frequency, name = Frequency.parse(freq), forecasts["series_id"][0]
    values = windows.values[:, windows.series_ids.index(name)]
    first_us = int(forecasts["timestamp"].to_physical()[0])
    last = frequency.window_of(first_us) - 1
    is_shown = (
        (windows.index > last - _HISTORY * len(forecasts)) & (windows.index <= last) & (values == values)
    )
    shown = pl.Series(frequency.start_us(windows.index[is_shown])).cast(pl.Datetime("us"))
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(min(columns, 120), _ROWS)
    plotext.date_form("Y-m-d H:M")
    at, ahead = (_times(times) for times in (shown, forecasts["timestamp"]))
    plotext.plot(at, values[is_shown].tolist(), marker="braille", label="observed")
    quantiles = forecasts.columns[4:]
    for column in (quantiles[:1] + quantiles[-1:]) if len(quantiles) > 1 else quantiles:
        plotext.plot(ahead, forecasts[column].to_list(), marker="dot", color="gray", label=column)
    plotext.plot(ahead, forecasts["forecast"].to_list(), marker="braille", color="orange", label="forecast")
    plotext.title(name)
    return Text.from_ansi(plotext.build())


def _times(times: pl.Series) -> list[str]:
    return times.dt.strftime("%Y-%m-%d %H:%M").to_list()
