"""A backtest: the forecasts of a model on the last windows of its data, scored beside the baselines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from forecaster.evaluation.baselines import persistence, seasonal_naive
from forecaster.evaluation.scores import errors, keep_common, score, series_scale
from forecaster.evaluation.skill import PERSISTENCE, SEASONAL_NAIVE, BaselineComparison
from forecaster.forecasts import Forecasts
from forecaster.model import Forecaster
from forecaster.stepping.advance import advance
from forecaster.time.windows import Windows

_BLOCK = 256  # a block has at most this many windows: forecasts of all windows would not fit into memory


@dataclass(frozen=True)
class Backtest:
    """The result of a backtest: scores, number of observed windows of each series, and computing time.

    Attributes:
        comparison: errors and scores of the model and the baselines.
        rows: number of observed windows of each series.
        seconds: the time that the backtest took.
    """

    comparison: BaselineComparison
    rows: Mapping[str, int]
    seconds: float


def backtest(forecaster: Forecaster, windows: Windows, first: int) -> Backtest | None:
    """Step a forecaster through ``windows``; score the forecasts issued at row ``first`` and at later rows.

    Returns:
        The scores of the forecaster and the baselines (see `score_beside_baselines`); None if no forecast has
        an actual.
    """
    began_s, config, parts = time.monotonic(), forecaster.window_config, []
    for start, forecasts in step_in_blocks(forecaster, windows, first):
        if start >= first:
            parts.append(errors(forecasts.frame(), windows, config))
    own = pl.concat(parts)
    if not len(own):
        return None
    counts = (~np.isnan(windows.values)).sum(axis=0).tolist()
    return Backtest(
        score_beside_baselines(forecaster, own, windows, first),
        dict(zip(windows.series_ids, counts, strict=True)),
        time.monotonic() - began_s,
    )


def step_in_blocks(forecaster: Forecaster, windows: Windows, cut: int) -> Iterator[tuple[int, Forecasts]]:
    """Step a new state through ``windows`` in blocks; yield each block's first row number and forecasts.

    A block begins at row ``cut``, so that no block has rows on both sides of it. No alarms are raised,
    because nothing reads them here and no forecast depends on them.
    """
    online = forecaster.online_config.model_copy(update={"alarms_per_week": 0.0})
    forecaster = replace(forecaster, online_config=online)
    state, rows = forecaster.initial_state(), len(windows.values)
    for start in [*range(0, cut, _BLOCK), *range(cut, rows, _BLOCK)]:
        stop = min(start + _BLOCK, cut if start < cut else rows)
        state, forecasts = advance(forecaster, state, windows.rows(start, stop))
        yield start, forecasts


def score_beside_baselines(
    forecaster: Forecaster, own: pl.DataFrame, windows: Windows, first: int
) -> BaselineComparison:
    """Return the errors and scores of a forecaster and of both baselines: persistence and seasonal naive.

    All are scored on the series, issue times and horizons of ``own``. Errors are divided by the scale of each
    series in the rows before ``first`` (`forecaster.evaluation.scores.series_scale`).

    Args:
        forecaster: its cell is the name of its scores.
        own: errors of the forecaster (see `forecaster.evaluation.scores.errors`).
        windows: the values that were forecast, and the values before them.
        first: the row of the first issued forecast.
    """
    config, horizon = forecaster.window_config, forecaster.network_config.horizon
    label = str(forecaster.network_config.cell)
    scale, by_label = series_scale(windows.rows(0, first), config), {label: own}
    for name, baseline in ((PERSISTENCE, persistence), (SEASONAL_NAIVE, seasonal_naive)):
        naive = baseline(windows, config, horizon).filter(pl.col("issued_at") >= own["issued_at"].min())
        by_label[name] = keep_common(own, errors(naive, windows, config))
    scores = pl.concat([score(name, part, scale) for name, part in by_label.items()])
    return BaselineComparison(label, by_label, scale, scores)
