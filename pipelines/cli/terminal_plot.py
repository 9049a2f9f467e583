"""Draw plots of characters for the terminal."""

from __future__ import annotations

import polars as pl
from rich.text import Text

_ROWS, _MOST_COLUMNS = 18, 120
_MARKS = {"observed": "braille", "forecast": "braille", "quantile": "dot"}


def fan_plot(frame: pl.DataFrame, title: str, columns: int) -> Text:
    """Draw the observed values of one series, its forecasts, and their outermost quantiles.

    Args:
        frame: observed values and forecasts (see `forecaster.reports.fan_plot.fan_figure`).
        title: title of the plot.
        columns: width of the terminal in characters.

    Returns:
        The plot, with its colours.
    """
    import plotext

    observed = frame.drop_nulls("observed").unique("target_at").sort("target_at")
    quantiles = sorted((n for n in frame.columns if n[0] == "q" and n != "q50"), key=lambda n: float(n[1:]))
    outermost = quantiles[:1] + quantiles[-1:] if len(quantiles) > 1 else quantiles
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(min(columns, _MOST_COLUMNS), _ROWS)
    plotext.date_form("Y-m-d H:M")
    plotext.plot(
        _texts(observed["target_at"]), observed["observed"].to_list(), marker=_MARKS["observed"],
        label="observed",
    )  # fmt: skip
    fans = frame.drop_nulls("issued_at").sort("issued_at", "target_at").partition_by("issued_at")
    for number, fan in enumerate(fans):
        at, is_labelled = _texts(fan["target_at"]), number == 0
        for name in outermost:
            plotext.plot(
                at, fan[name].to_list(), marker=_MARKS["quantile"], color="gray",
                label=name if is_labelled else None,
            )  # fmt: skip
        plotext.plot(
            at, fan["q50"].to_list(), marker=_MARKS["forecast"], color="orange",
            label="forecast" if is_labelled else None,
        )  # fmt: skip
    plotext.title(title)
    return Text.from_ansi(plotext.build())


def _texts(times: pl.Series) -> list[str]:
    return times.dt.strftime("%Y-%m-%d %H:%M").to_list()
