"""A backtest: the forecasts of a model on the last windows of its data, scored beside the baselines."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from forecaster.evaluation.baselines import persistence, seasonal_naive
from forecaster.evaluation.scores import errors, keep_common, score, series_scale
from forecaster.forecasts import Forecasts
from forecaster.model import Forecaster
from forecaster.stepping import advance
from forecaster.time.windows import Windows

_BLOCK = 256  # windows in one block; the forecasts of a whole long history would not fit into memory


def backtest(forecaster: Forecaster, windows: Windows, first: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Step a forecaster through ``windows`` and score the forecasts that it issues from row ``first`` on.

    Returns:
        The errors of the forecaster (see `forecaster.evaluation.scores.errors`), and the scores of the
        forecaster and the baselines (see `score_beside_baselines`).
    """
    config, parts = forecaster.window_config, []
    for start, forecasts in step_in_blocks(forecaster, windows, first):
        if start >= first:
            parts.append(errors(forecasts.frame(), windows, config))
    own = pl.concat(parts)
    return own, score_beside_baselines(forecaster, own, windows, first)


def step_in_blocks(forecaster: Forecaster, windows: Windows, cut: int) -> Iterator[tuple[int, Forecasts]]:
    """Step a cold state through ``windows``, and yield the first row and the forecasts of each block.

    A block begins at row ``cut``, so that every block lies before it or after it.
    """
    state, rows = forecaster.initial_state(), len(windows.values)
    for start in [*range(0, cut, _BLOCK), *range(cut, rows, _BLOCK)]:
        stop = min(start + _BLOCK, cut if start < cut else rows)
        state, forecasts = advance(forecaster, state, windows.rows(start, stop))
        yield start, forecasts


def score_beside_baselines(
    forecaster: Forecaster, own: pl.DataFrame, windows: Windows, first: int
) -> pl.DataFrame:
    """Return the scores of a forecaster, of persistence and of seasonal naive (``schemas.scores``).

    All are scored on the series, issue times and horizons of ``own``. Errors are divided by the scale of each
    series in the rows before ``first`` (`forecaster.evaluation.scores.series_scale`).

    Args:
        forecaster: its cell is the name of its scores.
        own: errors of the forecaster (see `forecaster.evaluation.scores.errors`).
        windows: the values that were forecast, and those before them.
        first: the row of the first issued forecast.
    """
    config, horizon = forecaster.window_config, forecaster.network_config.horizon
    unit = series_scale(windows.rows(0, first), config)
    table = [score(forecaster.network_config.cell, own, unit)]
    for label, baseline in (("persistence", persistence), ("seasonal naive", seasonal_naive)):
        naive = baseline(windows, config, horizon).filter(pl.col("issued_at") >= own["issued_at"].min())
        table.append(score(label, keep_common(own, errors(naive, windows, config)), unit))
    return pl.concat(table)
