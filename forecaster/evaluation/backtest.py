"""A backtest: the forecasts of a model on windows that it was not trained on, scored beside the baselines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from forecaster.evaluation.baselines import persistence, seasonal_naive
from forecaster.evaluation.scores import errors, keep_common, score, series_scale
from forecaster.evaluation.skill import PERSISTENCE, SEASONAL_NAIVE, BaselineComparison
from forecaster.model import Forecaster
from forecaster.stepping import advance
from forecaster.time.windows import Windows

_BLOCK = 256  # windows in one block; the forecasts of a whole long history would not fit into memory


@dataclass(frozen=True)
class Backtest:
    """The scores of a backtest.

    Attributes:
        comparison: errors and scores of the model and the baselines.
        rows: number of observed windows of each series.
        seconds: duration.
    """

    comparison: BaselineComparison
    rows: Mapping[str, int]
    seconds: float


def backtest(forecaster: Forecaster, windows: Windows, first: int) -> Backtest | None:
    """Step a forecaster through ``windows`` and score the forecasts that it issues from row ``first`` on.

    Returns:
        The scores of the forecaster and the baselines; None if no forecast has an actual. Errors are divided
        by the scale of each series in the rows before ``first``
        (`forecaster.evaluation.scores.series_scale`).
    """
    began_s = time.monotonic()
    config, horizon = forecaster.window_config, forecaster.network_config.horizon
    state, parts = forecaster.initial_state(), []
    rows = len(windows.values)
    for start in [*range(0, first, _BLOCK), *range(first, rows, _BLOCK)]:
        stop = min(start + _BLOCK, first if start < first else rows)
        state, forecasts = advance(forecaster, state, windows.rows(start, stop))
        if start >= first:
            parts.append(errors(forecasts.frame(), windows, config))
    own, label = pl.concat(parts), str(forecaster.network_config.cell)
    if not len(own):
        return None
    scale, by_label = series_scale(windows.rows(0, first), config), {label: own}
    for name, baseline in ((PERSISTENCE, persistence), (SEASONAL_NAIVE, seasonal_naive)):
        naive = baseline(windows, config, horizon).filter(pl.col("issued_at") >= own["issued_at"].min())
        by_label[name] = keep_common(own, errors(naive, windows, config))
    scores = pl.concat([score(name, part, scale) for name, part in by_label.items()])
    counts = (~np.isnan(windows.values)).sum(axis=0).tolist()
    return Backtest(
        BaselineComparison(label, by_label, scale, scores),
        dict(zip(windows.series_ids, counts, strict=True)),
        time.monotonic() - began_s,
    )
