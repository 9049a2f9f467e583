"""Metrics of forecasts for `mlflow.models.evaluate`: MASE, weighted quantile loss and coverage.

They are the same measures as in `forecaster.evaluation.metrics`, for a table with one row for each forecast
value and its actual.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import mlflow.models
import polars as pl
from mlflow.metrics import MetricValue
from mlflow.models import EvaluationMetric, make_metric

from forecaster import warning_filters
from schemas.errors import DataError
from schemas.forecasts import quantile_column

SCALE = "scale"
"""Column of an evaluation table: the scale of the row's series, by which MASE divides errors."""


def evaluate_forecasts(
    errors: pl.DataFrame, scale: Mapping[str, float], group: str = "forecast"
) -> dict[str, float]:
    """Score forecasts with `mlflow.models.evaluate`, and return the value of each metric by its name.

    `forecast_metrics` defines the metrics. MLflow logs the metrics and the table to the active run, or to a
    new run if none is active.

    Args:
        errors: forecasts with their actuals, the result of `forecaster.errors`.
        scale: the scale of each series, the result of `forecaster.series_scale`.
        group: first part of the metrics' names.

    Raises:
        DataError: ``errors`` has no row, or a series in it has no scale.
    """
    warning_filters.ignore(module=r"mlflow\b")  # pandas warns about calls in MLflow's code
    table = evaluation_table(errors, scale)
    levels = sorted(float(name[1:]) / 100 for name in table.columns if name[:1] == "q")
    result = mlflow.models.evaluate(
        data=table.to_pandas(),
        targets="observed",
        predictions="q50",
        extra_metrics=[forecast_metrics(levels, group)],
    )
    return {name: float(value) for name, value in result.metrics.items()}


def evaluation_table(errors: pl.DataFrame, scale: Mapping[str, float]) -> pl.DataFrame:
    """Return a table of forecasts and their actuals, with the columns that `forecast_metrics` needs.

    The columns are ``series_id, observed, scale`` and the quantiles.

    Args:
        errors: see `evaluate_forecasts`.
        scale: see `evaluate_forecasts`.

    Raises:
        DataError: ``errors`` has no row, or a series in it has no scale.
    """
    if errors.is_empty():
        raise DataError("no forecast has an actual: nothing to evaluate")
    ids = errors["series_id"]
    missing = [name for name in ids.unique().sort() if name not in scale]
    if missing:
        raise DataError(f"series {missing[0]!r} has no scale: give the scale of every series")
    own = ids.replace_strict(list(scale), list(scale.values()), return_dtype=pl.Float64).alias(SCALE)
    quantiles = [name for name in errors.columns if name[:1] == "q" and name[1:2].isdigit()]
    return errors.select("series_id", "observed", own, *quantiles)


def forecast_metrics(levels: Sequence[float], group: str = "forecast") -> EvaluationMetric:
    """Return an object with which MLflow computes three metrics: MASE, weighted quantile loss and coverage.

    MLflow logs the results as ``mase``, ``wql`` and, for example, ``coverage_90``. Each name follows
    ``group`` and a slash. The number 90 means that 90% of the actuals should lie between the outermost
    quantiles. A forecast with one level has no coverage. MASE and coverage are first averaged within each
    series and then over all series. The table that MLflow evaluates needs the columns of
    `evaluation_table`.

    Args:
        levels: quantile levels, rising, with 0.5 among them.
        group: first part of the names.
    """
    quantiles = [quantile_column(level) for level in levels]
    columns = ["series_id", SCALE, *quantiles]

    def eval_fn(predictions: Any, targets: Any, metrics: Any, *more: Any) -> MetricValue:
        own = dict(zip(columns, more, strict=True))
        frame = pl.DataFrame({"point": predictions, "actual": targets, **own})
        actual = pl.col("actual")
        found = {
            "mase": _mean_over_series(frame, (actual - pl.col("point")).abs() / pl.col(SCALE)),
            "wql": _weighted_quantile_loss(frame, dict(zip(quantiles, levels, strict=True))),
        }
        if len(levels) > 1:
            inside = actual.is_between(pl.col(quantiles[0]), pl.col(quantiles[-1]))
            percent = round(100 * (levels[-1] - levels[0]))
            found[f"coverage_{percent}"] = _mean_over_series(frame, inside.cast(pl.Float64))
        return MetricValue(aggregate_results=found)

    # MLflow reads the names of the parameters of `eval_fn`, and passes the columns with these names to it.
    names = ("predictions", "targets", "metrics", *columns)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    eval_fn.__signature__ = signature  # type: ignore[attr-defined]
    metric: EvaluationMetric = make_metric(eval_fn=eval_fn, greater_is_better=False, name=group)
    return metric


def _mean_over_series(frame: pl.DataFrame, error: pl.Expr) -> float:
    """Return the average over all series of the mean of ``error`` within a series."""
    return float(frame.group_by("series_id").agg(error.mean().alias("mean"))["mean"].mean())  # type: ignore[arg-type]


def _weighted_quantile_loss(frame: pl.DataFrame, levels: Mapping[str, float]) -> float:
    """Return twice the total pinball loss divided by the sum of absolute actuals, averaged over levels.

    ``levels`` has the quantile level of each column of forecasts.
    """
    misses = {name: pl.col("actual") - pl.col(name) for name in levels}
    pinball = [
        pl.max_horizontal(misses[name] * level, misses[name] * (level - 1)).sum()
        for name, level in levels.items()
    ]
    return float(frame.select(2 * pl.mean_horizontal(pinball) / pl.col("actual").abs().sum()).item())
