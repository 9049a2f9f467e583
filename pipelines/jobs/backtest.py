"""The backtest of a training: score its forecasts of the last windows, and log scores and pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl

from forecaster.evaluation.baselines import persistence, seasonal_naive
from forecaster.evaluation.scores import calibration, errors, fans, matched, score, series_scale
from forecaster.evaluation.skill import PERSISTENCE, SEASONAL_NAIVE, BaselineComparison
from forecaster.model import Forecaster
from forecaster.registry.registry import Run
from forecaster.reports import plots
from forecaster.stepping import advance
from forecaster.time.frequency import Frequency
from forecaster.time.windows import Windows
from forecaster.training.train import Trained, held_out_from
from pipelines.settings.config import JobConfig

_SERIES = 100  # enough to compare versions; more would take long for a large fleet
_FANS, _WORST = 3, 10
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
    own, label = pl.concat(parts), forecaster.network_config.cell
    if not len(own):
        return None
    scale, by_label = series_scale(windows.rows(0, first), config), {label: own}
    for name, baseline in ((PERSISTENCE, persistence), (SEASONAL_NAIVE, seasonal_naive)):
        naive = baseline(windows, config, horizon).filter(pl.col("issued_at") >= own["issued_at"].min())
        by_label[name] = matched(own, errors(naive, windows, config))
    scores = pl.concat([score(name, part, scale) for name, part in by_label.items()])
    counts = (~np.isnan(windows.values)).sum(axis=0).tolist()
    return Backtest(
        BaselineComparison(label, by_label, scale, scores),
        dict(zip(windows.series_ids, counts, strict=True)),
        time.monotonic() - began_s,
    )


def backtest_of(trained: Trained, windows: Windows, config: JobConfig) -> Backtest | None:
    """Return the backtest of the best weights on the held-out last windows; None if there are none.

    At most 100 series are scored, spread evenly over all of them.
    """
    _, first = held_out_from(len(windows.values), config.training)
    if first >= len(windows.values) or first == 0:
        return None
    chosen = np.unique(np.linspace(0, len(windows.series_ids) - 1, _SERIES, dtype=int))
    return backtest(trained.chosen, windows.of_series(chosen), first)


def log_backtest(run: Run, found: Backtest, freq: Frequency) -> None:
    """Log the scores, the tables and the pictures of a backtest in a run, linked to the run's model."""
    with run.notice_on_error("the scores of the backtest"):
        run.log_metrics({"time/backtest_s": found.seconds}, of_model=True)
        log_comparison(run, found.comparison, "backtest", found.rows)
    label, own = found.comparison.label, found.comparison.errors[found.comparison.label]
    run.log_figure(
        lambda: plots.error_by_horizon_figure(found.comparison.scores), "plots/error_by_horizon.png"
    )
    levels = calibration(own)
    columns = (levels["level"].to_list(), levels["observed"].to_list())
    run.log_figure(lambda: plots.calibration_figure(*columns, label), "plots/calibration.png")
    ids = own["series_id"].unique(maintain_order=True)
    shown = ids.gather_every(max(len(ids) // _FANS, 1)).to_list()[:_FANS]
    _log_fans(run, own, {f"fan_{number}": name for number, name in enumerate(shown, 1)}, freq)
    with run.notice_on_error("the pictures of the worst series"):
        worst = found.comparison.by_series(found.rows)["series_id"].to_list()[:_WORST]
        _log_fans(run, own, {f"worst/{number:02}": name for number, name in enumerate(worst, 1)}, freq)


def log_comparison(run: Run, comparison: BaselineComparison, group: str, rows: Mapping[str, int]) -> None:
    """Log the scores of a model beside the baselines, linked to the run's model.

    Args:
        run: the run.
        comparison: the scores.
        group: group of the metrics, and folder of the tables ``scores.json`` and ``series.json``.
        rows: number of observed windows of each series.
    """
    numbers = {f"{group}/{name}": value for name, value in comparison.metrics().items()}
    run.log_metrics(numbers, of_model=True)
    for horizon, points in comparison.curves().items():
        run.log_points({f"{group}/{name}": value for name, value in points.items()}, horizon, of_model=True)
    run.log_frame(comparison.scores, f"{group}/scores.json")
    run.log_frame(comparison.by_series(rows), f"{group}/series.json")


def _log_fans(run: Run, own: pl.DataFrame, series: Mapping[str, str], freq: Frequency) -> None:
    """Log pictures of forecasts beside the actuals, by file name, one for each of some series."""
    for file, series_id in series.items():
        fan = fans(own, series_id, freq)
        if len(fan):
            run.log_figure(partial(plots.fan_figure, fan, f"{series_id}, backtest"), f"plots/{file}.png")
