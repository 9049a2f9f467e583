"""Metrics of forecasts for `mlflow.models.evaluate`: MASE, weighted quantile loss and coverage.

They are the same measures as in `forecaster.evaluation.metrics`, for a table with one row for each forecast
value and its actual.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlflow.models
import polars as pl
from mlflow.metrics import MetricValue
from mlflow.models import EvaluationMetric, make_metric

from schemas.errors import DataError
from schemas.forecasts import quantile_column

SCALE = "scale"
"""Column of an evaluation table: the scale of the row's series, by which MASE divides errors."""

_BY_ROW = ("predictions", "targets", "metrics")  # MLflow passes these three to every metric


def evaluate_forecasts(
    errors: pl.DataFrame, scale: Mapping[str, float], prefix: str = ""
) -> dict[str, float]:
    """Score forecasts with `mlflow.models.evaluate`, and return the metrics by name.

    MLflow logs them to the active run, or to a new run if none is active.

    Args:
        errors: forecasts with their actuals, the result of `forecaster.errors`.
        scale: the scale of each series, the result of `forecaster.series_scale`.
        prefix: is put before every name, such as ``"production/"``.

    Raises:
        DataError: ``errors`` has no row, or a series in it has no scale.
    """
    table = evaluation_table(errors, scale)
    levels = sorted(float(name[1:]) / 100 for name in table.columns if name[:1] == "q")
    result = mlflow.models.evaluate(
        data=table.to_pandas(),
        targets="observed",
        predictions="q50",
        extra_metrics=forecast_metrics(levels),
        evaluator_config={"metric_prefix": prefix},
    )
    return {name: float(value) for name, value in result.metrics.items()}


def evaluation_table(errors: pl.DataFrame, scale: Mapping[str, float]) -> pl.DataFrame:
    """Return a table that `forecast_metrics` can score: ``series_id, observed, scale`` and the quantiles.

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
        raise DataError(f"series {missing[0]!r} has no scale: give one for each of the series")
    own = ids.replace_strict(list(scale), list(scale.values()), return_dtype=pl.Float64).alias(SCALE)
    quantiles = [name for name in errors.columns if name[:1] == "q" and name[1:2].isdigit()]
    return errors.select("series_id", "observed", own, *quantiles)


def forecast_metrics(levels: Sequence[float]) -> list[EvaluationMetric]:
    """Return the metrics ``mase``, ``wql`` and, with an interval, ``coverage_`` with its percent.

    The table that MLflow evaluates needs the columns of `evaluation_table`.

    Args:
        levels: quantile levels, rising, with 0.5 among them.
    """
    columns = [quantile_column(level) for level in levels]

    def mase(frame: pl.DataFrame) -> float:
        error = (pl.col("targets") - pl.col("predictions")).abs() / pl.col(SCALE)
        return _mean_over_series(frame, error)

    def wql(frame: pl.DataFrame) -> float:
        misses = [pl.col("targets") - pl.col(name) for name in columns]
        pinball = [
            pl.max_horizontal(miss * level, miss * (level - 1)).sum()
            for miss, level in zip(misses, levels, strict=True)
        ]
        size = pl.col("targets").abs().sum()
        return float(frame.select(2 * pl.mean_horizontal(pinball) / size).item())

    def coverage(frame: pl.DataFrame) -> float:
        inside = pl.col("targets").is_between(pl.col(columns[0]), pl.col(columns[-1]))
        return _mean_over_series(frame, inside.cast(pl.Float64))

    made = [
        _metric("mase", mase, ("series_id", SCALE), greater_is_better=False),
        _metric("wql", wql, columns, greater_is_better=False),
    ]
    if len(levels) > 1:
        percent = round(100 * (levels[-1] - levels[0]))
        bounds = ("series_id", columns[0], columns[-1])
        made.append(_metric(f"coverage_{percent}", coverage, bounds, greater_is_better=True))
    return made


def _mean_over_series(frame: pl.DataFrame, error: pl.Expr) -> float:
    """Return the mean over series of each series' mean."""
    return float(frame.group_by("series_id").agg(error.mean().alias("mean"))["mean"].mean())  # type: ignore[arg-type]


def _metric(
    name: str, compute: Callable[[pl.DataFrame], float], columns: Sequence[str], *, greater_is_better: bool
) -> EvaluationMetric:
    """Return a metric of MLflow that reads ``columns`` of the table in addition to forecasts and actuals."""

    def eval_fn(predictions: Any, targets: Any, metrics: Any, *more: Any) -> MetricValue:
        own = dict(zip(columns, more, strict=True))
        frame = pl.DataFrame({"predictions": predictions, "targets": targets, **own})
        return MetricValue(aggregate_results={"": compute(frame)})

    # MLflow passes the columns of the table that the parameters of a metric's function name.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    named = [inspect.Parameter(parameter, kind) for parameter in (*_BY_ROW, *columns)]
    eval_fn.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    return make_metric(eval_fn=eval_fn, greater_is_better=greater_is_better, name=name)
