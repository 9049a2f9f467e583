"""A backtest: the forecasts of a model on windows that it was not trained on, scored beside the baselines."""

from __future__ import annotations

import polars as pl

from forecaster.evaluation.baselines import persistence, seasonal_naive
from forecaster.evaluation.scores import errors, keep_common, score, series_scale
from forecaster.model import Forecaster
from forecaster.stepping import advance
from forecaster.time.windows import Windows

_BLOCK = 256  # windows in one block; the forecasts of a whole long history would not fit into memory


def backtest(forecaster: Forecaster, windows: Windows, first: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Step a forecaster through ``windows`` and score the forecasts that it issues from row ``first`` on.

    Returns:
        The errors of the forecaster (see `forecaster.evaluation.scores.errors`), and the scores of the
        forecaster and the baselines. Errors are divided by the scale of each series in the rows before
        ``first`` (`forecaster.evaluation.scores.series_scale`).
    """
    config, horizon = forecaster.window_config, forecaster.network_config.horizon
    state, parts = forecaster.initial_state(), []
    rows = len(windows.values)
    for start in [*range(0, first, _BLOCK), *range(first, rows, _BLOCK)]:
        stop = min(start + _BLOCK, first if start < first else rows)
        state, forecasts = advance(forecaster, state, windows.rows(start, stop))
        if start >= first:
            parts.append(errors(forecasts.frame(), windows, config))
    own = pl.concat(parts)
    unit = series_scale(windows.rows(0, first), config)
    table = [score(forecaster.network_config.cell, own, unit)]
    for label, baseline in (("persistence", persistence), ("seasonal naive", seasonal_naive)):
        naive = baseline(windows, config, horizon).filter(pl.col("issued_at") >= own["issued_at"].min())
        table.append(score(label, keep_common(own, errors(naive, windows, config)), unit))
    return own, pl.concat(table)
