"""A forecaster behind MLflow's ``python_function`` interface, which forecasts from a history.

If the model was trained with covariates, they are columns of the history. Static covariates have the same
value in all rows of a series. Known covariates of future windows are in further rows without a value, after
the last row with a value.

This module does not import MLflow; MLflow loads it through `forecaster.registry.loader`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from forecaster.covariates.encoding import SERIES, TIME, Column, Features, Table, Tables
from forecaster.covariates.lookup import Covariates
from forecaster.model import Forecaster
from forecaster.shards.batch import Batch
from forecaster.shards.shard import Shard, apply
from forecaster.stepping import advance_in_place, windows_per_call
from forecaster.threads import compute_threads
from forecaster.time.window_config import WindowConfig
from schemas import cells, observations, quarantine
from schemas.errors import DataError
from schemas.observations import OBSERVED

HISTORY = {
    "series_id": pl.String(),
    "timestamp": pl.Datetime("us", "UTC"),
    "value": pl.Float64(),
}


class ServedForecaster:
    """The object that MLflow serves. It keeps no state between calls: each request brings its history."""

    def __init__(self, forecaster: Forecaster) -> None:
        self.forecaster = forecaster

    @compute_threads(1)
    def predict(self, frame: Any, params: object = None) -> Any:
        """Return the last forecast of every series in a history, from a cold start.

        Rows are validated and stepped as in a streaming job. A row without a value is not an observation, but
        the windows before it are closed.

        Args:
            frame: a Polars or pandas frame with the columns ``series_id`` (string), ``timestamp`` (datetime;
                without a zone it is read as UTC) and ``value`` (number, null or NaN where missing); and one
                column for each covariate that the forecaster was trained with, empty where missing.
            params: not used; MLflow passes it.

        Returns:
            One row per series and horizon, in the library of ``frame``: ``series_id``, ``issued_at`` (UTC),
            ``model_version``, ``horizon`` (windows ahead) and one column per quantile, such as ``q50``, in
            the unit of ``value``.

        Raises:
            DataError: a column is missing or has another type, or a row is not an observation.
        """
        if isinstance(frame, pl.DataFrame):
            return self._forecast_frame(frame)
        stamps = frame.get("timestamp")
        if getattr(getattr(stamps, "dtype", None), "tz", None) is not None:
            # Convert to UTC and drop the zone: some releases of pandas cannot pass zoned columns to Polars.
            frame = frame.assign(timestamp=stamps.dt.tz_convert(None))
        return self._forecast_frame(pl.from_pandas(frame)).to_pandas()

    def _forecast_frame(self, frame: pl.DataFrame) -> pl.DataFrame:
        features = self.forecaster.covariates.features
        missing = [name for name in columns_of(features) if name not in frame.columns]
        if missing:
            raise DataError(
                f"the history has no column {missing[0]!r}, which {self.forecaster.version} was trained "
                "with: add it, with empty cells where its values are unknown"
            )
        history = _checked(_observation_frame(frame, features.observed))
        forecaster = self.forecaster
        if features.known or features.static:
            tables = _tables(frame.with_columns(history["series_id"], history["timestamp"]), features)
            forecaster = forecaster.with_covariates(
                Covariates.of(features, forecaster.window_config.frequency, tables)
            )
        if features.known and history["value"].is_not_nan().any():
            newest = pl.col("timestamp").filter(pl.col("value").is_not_nan()).max()
            history = history.filter(pl.col("timestamp") <= newest)
        return last_forecasts(forecaster, history)


def columns_of(features: Features) -> dict[str, Column | None]:
    """Return the columns that a history needs in addition to `HISTORY`, by name.

    The value is the encoding of a known or static column, and None for an observed one.
    """
    found: dict[str, Column | None] = dict.fromkeys(features.observed)
    return found | {column.name: column for column in (*features.known, *features.static)}


def _tables(frame: pl.DataFrame, features: Features) -> Tables:
    """Return the known and static covariates of a history as tables."""
    known = frame.select(SERIES, TIME, *(column.name for column in features.known))
    # Use the first non-empty cell of each series: a request repeats static covariates in every row.
    names = [column.name for column in features.static]
    or_null = [frame[name].set(~cells.given(frame[name]), None) for name in names]
    static = pl.DataFrame([frame[SERIES], *or_null]).group_by(SERIES, maintain_order=True)
    static_frame = static.agg(pl.col(names).drop_nulls().first())
    return Tables(
        Table(known, "the history") if features.known else None,
        Table(static_frame, "the series of the history") if names else None,
    )


def last_forecasts(forecaster: Forecaster, history: pl.DataFrame) -> pl.DataFrame:
    """Return the last forecast of every series in an observation frame, from a cold start.

    The result has one row per series and horizon.

    Args:
        forecaster: weights and settings.
        history: observation frame; a row without a value (NaN) only closes the windows before it.
    """
    freq = forecaster.window_config.frequency
    rows = _rows_since_last_begin(history.filter(pl.col("value").is_not_nan()), forecaster.window_config)
    rows = rows.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("offset"))
    times_us = history["timestamp"].to_physical().to_numpy()
    closed_us = freq.end_us(freq.window_of(int(times_us.max()))) if len(times_us) else None
    batch = Batch("history", 0, len(rows), rows, quarantine.empty(offset=True), closed_us)
    shard = Shard.cold(0, 1, forecaster.initial_state(), [batch.partition])
    found = advance_in_place(forecaster, forecaster.initial_state(), np.empty((0, 0)), 0).frame()
    for _, output in apply(shard, batch, forecaster, windows_per_call(rows["series_id"].n_unique())):
        if output.forecasts is not None:
            newer = [found, output.forecasts.latest().frame()]
            found = pl.concat(newer).unique("series_id", keep="last", maintain_order=True)
    return (
        found.sort("series_id")
        .explode("forecast")
        .unnest("forecast")
        .drop("revision", "p_value", "alarm")
        # Widen the horizon to 32 bits, because MLflow's signatures have no 16-bit integers.
        .with_columns(pl.col("horizon").cast(pl.Int32))
    )


def _rows_since_last_begin(rows: pl.DataFrame, config: WindowConfig) -> pl.DataFrame:
    """Return the rows of each series after its last gap of more than ``max_gap`` windows.

    The series begins anew after such a gap, so earlier rows do not change the last forecast.
    """
    window = config.frequency.window(pl.col("timestamp"))
    is_begin = (pl.col("_window").diff() > config.max_gap + 1).fill_null(False)
    period = is_begin.cum_sum().over("series_id")
    marked = rows.with_columns(_window=window).sort("_window").with_columns(_period=period)
    is_last = pl.col("_period") == pl.col("_period").max().over("series_id")
    return marked.filter(is_last).drop("_window", "_period")


def _checked(history: pl.DataFrame) -> pl.DataFrame:
    """Return the history if each of its rows is an observation, or would be one with a value.

    Raises:
        DataError: a row is not an observation; the message names the first such row.
    """
    given = pl.when(pl.col("value").is_nan()).then(0.0).otherwise("value")
    _, rejected = observations.validate(history.with_columns(given.alias("value")))
    if len(rejected):
        first = rejected.row(0, named=True)
        others = f" (and {len(rejected) - 1:,} more rows)" if len(rejected) > 1 else ""
        raise DataError(
            f"the history: row {first['row']}: {first['reason']}{others}: correct it, or leave it out"
        )
    return history


def _observation_frame(frame: pl.DataFrame, observed: tuple[str, ...]) -> pl.DataFrame:
    """Return the request's frame with the columns and types of an observation frame.

    Raises:
        DataError: a column is missing or cannot be converted.
    """
    missing = [name for name in HISTORY if name not in frame.columns]
    if missing:
        raise DataError(f"the history has no column {missing[0]!r}: it needs {', '.join(HISTORY)}")
    stamp = frame.schema["timestamp"]
    if isinstance(stamp, pl.Datetime) and stamp.time_zone is None:
        frame = frame.with_columns(pl.col("timestamp").dt.replace_time_zone("UTC"))
    elif not isinstance(stamp, pl.Datetime):
        raise DataError(f"the history's column 'timestamp' holds {stamp}: make it a datetime")
    try:
        frame = frame.with_columns(cells.names(frame["series_id"]))
        history = frame.select(pl.col(name).cast(dtype) for name, dtype in HISTORY.items())
        past = [pl.col(name).cast(pl.Float64).fill_nan(None).alias(OBSERVED + name) for name in observed]
        return history.with_columns(pl.col("value").fill_null(float("nan")), *frame.select(past))
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"the history cannot be read as numbers by series and time: {reason}") from error


def _load_pyfunc(path: str) -> ServedForecaster:
    """Load a model that MLflow registered before `forecaster.registry.loader` existed."""
    return ServedForecaster(Forecaster.load(Path(path)))
