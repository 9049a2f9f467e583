"""Backtest a trained model, and log the scores, tables and pictures of the backtest in an MLflow run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import polars as pl

from forecaster.evaluation.backtest import Backtest, backtest
from forecaster.evaluation.scores import calibration, fans
from forecaster.evaluation.skill import BaselineComparison
from forecaster.registry.registry import Run
from forecaster.reports import fan_plot, plots
from forecaster.time.frequency import Frequency
from forecaster.time.windows import Windows
from forecaster.training.train import Trained, held_out_from
from pipelines.settings.config import JobConfig

# a backtest scores at most this many series: enough to compare versions, and fast for a large fleet
_SERIES = 100
_FANS, _WORST = 3, 10


def backtest_of(trained: Trained, windows: Windows, config: JobConfig) -> Backtest | None:
    """Return a trained model's backtest on the windows held out for it; None if none or all are held out.

    At most 100 series are scored, spread evenly over all series.
    """
    _, first = held_out_from(len(windows.values), config.training)
    if first >= len(windows.values) or first == 0:
        return None
    chosen = np.unique(np.linspace(0, len(windows.series_ids) - 1, _SERIES, dtype=int))
    return backtest(trained.chosen, windows.of_series(chosen), first)


def log_backtest(run: Run, found: Backtest, freq: Frequency) -> None:
    """Log the scores, tables and pictures of a backtest in an MLflow run.

    The scores are linked to the run's model.
    """
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
    """Log the scores of a model and of the baselines in a run, linked to the run's model.

    Args:
        run: the run.
        comparison: the scores.
        group: group of the metrics, and folder of the tables ``scores.json`` and ``series.json``.
        rows: number of observed windows of each series.
    """
    numbers = {f"{group}/{name}": value for name, value in comparison.metrics().items()}
    run.log_metrics(numbers, of_model=True)
    curves = {
        horizon: {f"{group}/{name}": value for name, value in points.items()}
        for horizon, points in comparison.curves().items()
    }
    run.log_curves(curves, of_model=True)
    run.log_frame(comparison.scores, f"{group}/scores.json")
    run.log_frame(comparison.by_series(rows), f"{group}/series.json")


def _log_fans(run: Run, own: pl.DataFrame, series: Mapping[str, str], freq: Frequency) -> None:
    """Log a picture for each of the given series: its forecasts beside the actuals."""
    for file, series_id in series.items():
        fan = fans(own, series_id, freq)
        if len(fan):
            run.log_figure(partial(fan_plot.fan_figure, fan, f"{series_id}, backtest"), f"plots/{file}.png")
