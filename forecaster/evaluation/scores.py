"""Score stored forecasts against actuals.

Letters: T windows, S series.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from forecaster.components.season import likely_season
from forecaster.evaluation.metrics import has_scale, seasonal_scale
from forecaster.time.frequency import Frequency
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows, observed

Scale = Mapping[str, float]

_FAN_WINDOWS, _MOST_FANS = 168, 28


def series_scale(windows: Windows, config: WindowConfig) -> dict[str, float]:
    """Return the scale of each series, as in MASE: the mean absolute error of seasonal naive on ``windows``.

    `forecaster.evaluation.metrics.seasonal_scale` documents the scale of series that are too short, constant
    or empty.

    Args:
        windows: values before the forecasts that are scored.
        config: length of a window, and whether an empty window is an observation of 0 (``empty``).
    """
    unit = seasonal_scale(observed(windows, config).values, likely_season(config.frequency), windows.index)
    return dict(zip(windows.series_ids, unit.tolist(), strict=True))


def series_without_scale(windows: Windows, config: WindowConfig) -> list[str]:
    """Return the series that have no two values one season or one window apart; their scale is 1."""
    found = has_scale(observed(windows, config).values, likely_season(config.frequency), windows.index)
    return [name for name, is_scaled in zip(windows.series_ids, found.tolist(), strict=True) if not is_scaled]


def errors(forecasts: pl.DataFrame, windows: Windows, config: WindowConfig) -> pl.DataFrame:
    """Join forecasts with their actuals: one row per series, issue time and horizon that has an actual.

    Args:
        forecasts: forecast frame, nested by horizon; a horizon without a value (null) is left out.
        windows: the values that were observed.
        config: length of a window, and whether an empty window is an observation of 0 (``empty``).

    Returns:
        ``series_id, issued_at, horizon, observed``, and one column per quantile (``q10`` and so on).
    """
    windows = observed(windows, config)
    actuals = pl.DataFrame(
        {
            "series_id": np.repeat(np.array(windows.series_ids, dtype=object), len(windows.values)),
            "window": np.tile(windows.index, len(windows.series_ids)),
            "observed": windows.values.T.reshape(-1),
        },
        schema_overrides={"series_id": pl.String},
    ).filter(pl.col("observed").is_not_nan())
    window = config.frequency.window(pl.col("issued_at")) + pl.col("horizon").cast(pl.Int64) - 1
    # Do not select ``p_value``: it may be null, but drop_nulls must drop only horizons without a forecast.
    selected = forecasts.select("series_id", "issued_at", "forecast")
    flat = selected.explode("forecast").unnest("forecast").drop_nulls()
    return flat.with_columns(window=window).join(actuals, on=["series_id", "window"]).drop("window")


def score(model: str, errors: pl.DataFrame, scale: Scale) -> pl.DataFrame:
    """Return the mean errors at each horizon, as rows of ``schemas.scores``.

    Errors are divided by the scale of their series. A horizon's score is the mean over series of each series'
    mean.

    Args:
        model: name of the model, for the rows.
        errors: result of `errors`.
        scale: scale of each series (see `series_scale`); 1 for a series that it does not contain.
    """
    quantiles = quantile_columns(errors)
    miss = {q: pl.col("observed") - pl.col(q) for q in quantiles}
    pinball = [
        pl.max_horizontal(miss[q] * float(q[1:]) / 100, miss[q] * (float(q[1:]) / 100 - 1)) for q in quantiles
    ]
    inside = pl.col("observed").is_between(pl.col(quantiles[0]), pl.col(quantiles[-1]))
    by_series = (
        errors.with_columns(unit=unit_of(scale))
        .group_by("series_id", "horizon")
        .agg(
            count=pl.len(),
            mae=(miss["q50"].abs() / pl.col("unit")).mean(),
            pinball=(pl.mean_horizontal(pinball) / pl.col("unit")).mean(),
            coverage=inside.mean() if len(quantiles) > 1 else pl.lit(None, pl.Float64),
        )
    )
    return (
        by_series.group_by("horizon")
        .agg(pl.col("count").sum(), pl.col("mae", "pinball", "coverage").mean())
        .sort("horizon")
        .select(
            pl.lit(model).alias("model"),
            pl.col("horizon").cast(pl.Int32),
            pl.col("count").cast(pl.Int64),
            "mae",
            "pinball",
            "coverage",
        )
    )


def quantile_columns(errors: pl.DataFrame) -> list[str]:
    """Return the names of the quantile columns, such as ``q50``, in the order of their levels."""
    names = (name for name in errors.columns if name[0] == "q" and name[1:2].isdigit())
    return sorted(names, key=lambda name: float(name[1:]))


def unit_of(scale: Scale) -> pl.Expr:
    """Return a Polars expression: the scale of each row's series, or 1 if ``scale`` lacks the series."""
    known = scale or {"": 1.0}
    return pl.col("series_id").replace_strict(
        list(known), list(known.values()), default=1.0, return_dtype=pl.Float64
    )


def keep_common(errors: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of ``others`` whose series, issue time and horizon are in ``errors``.

    So two models are compared on the same forecasts.
    """
    return others.join(errors, on=["series_id", "issued_at", "horizon"], how="semi")


def calibration(errors: pl.DataFrame) -> pl.DataFrame:
    """Return, for each quantile, its ``level`` and the share of actuals at or below it (``observed``).

    The share is averaged over series.
    """
    names = quantile_columns(errors)
    under = errors.group_by("series_id").agg((pl.col("observed") <= pl.col(n)).mean().alias(n) for n in names)
    means = under.select(pl.col(n).mean() for n in names).row(0)
    return pl.DataFrame({"level": [float(n[1:]) / 100 for n in names], "observed": means}).sort("level")


def fans(errors: pl.DataFrame, series_id: str, freq: Frequency) -> pl.DataFrame:
    """Return forecasts of one series for a fan plot: one after the other, without overlap in time.

    The forecasts are from the middle of all forecasts, and cover about 168 windows, but there are at least
    4 (if so many exist) and at most 28 of them (see `fan_plot.fan_figure`).
    """
    of_series = errors.filter(pl.col("series_id") == series_id)
    times = of_series["issued_at"].unique().sort()
    if not len(times):
        return of_series.with_columns(target_at=pl.col("issued_at"))
    horizon = int(of_series["horizon"].max())  # type: ignore[arg-type]
    issues = min(max(_FAN_WINDOWS // horizon, 4), _MOST_FANS)
    windows = freq.window_of(times.to_physical().to_numpy())
    first_window = windows[max(len(times) // 2 - issues * horizon // 2, 0)]
    issue_times = freq.start_us(first_window + horizon * np.arange(issues))
    shown = of_series.filter(pl.col("issued_at").to_physical().is_in(issue_times))
    issued = freq.window_of(shown["issued_at"].to_physical().to_numpy())
    target_us = freq.start_us(issued + shown["horizon"].to_numpy() - 1)
    return shown.with_columns(target_at=pl.Series(target_us).cast(pl.Datetime("us", "UTC")))
