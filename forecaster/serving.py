"""A forecaster behind MLflow's ``python_function`` interface: history in, the latest forecast out.

What a model was trained with beside the values comes with the request, as columns of the history: static
covariates, which are the same in all rows of a series; those that are observed; and those that are known
ahead, in further rows without a value, after the last that has one.

Nothing here imports MLflow: `forecaster.registry.loader` is what it loads.
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
    """What MLflow serves: it keeps no state, so every call brings the history it should see."""

    def __init__(self, forecaster: Forecaster) -> None:
        self.forecaster = forecaster

    @compute_threads(1)
    def predict(self, frame: Any, params: object = None) -> Any:
        """The last forecast of every series after a history, from a cold start.

        Rows are validated as those of every job, and stepped as a stream steps them. A row without a value is
        no observation; the windows up to it are closed nevertheless.

        Args:
            frame: a Polars or pandas frame with the columns ``series_id`` (string), ``timestamp`` (datetime;
                without a zone it is read as UTC) and ``value`` (number, null or NaN where missing); and the
                covariates that the forecaster was trained with, by name, empty where missing.
            params: not used; MLflow hands it over.

        Returns:
            One row a series and horizon, in the library of ``frame``: ``series_id``, ``issued_at`` (UTC),
            ``model_version``, ``horizon`` (windows ahead) and one column a quantile, such as ``q50``, in the
            unit of ``value``.

        Raises:
            DataError: a column is missing or of another type, or a row is no observation.
        """
        if isinstance(frame, pl.DataFrame):
            return self._answer(frame)
        stamps = frame.get("timestamp")
        if getattr(getattr(stamps, "dtype", None), "tz", None) is not None:
            # Without its zone a column crosses to Polars in every release of pandas; it is read as UTC again.
            frame = frame.assign(timestamp=stamps.dt.tz_convert(None))
        return self._answer(pl.from_pandas(frame)).to_pandas()

    def _answer(self, frame: pl.DataFrame) -> pl.DataFrame:
        features = self.forecaster.covariates.features
        missing = [name for name in columns_of(features) if name not in frame.columns]
        if missing:
            raise DataError(
                f"the history has no column {missing[0]!r}, which {self.forecaster.version} was trained "
                "with: add it, empty where nothing is known"
            )
        history = _checked(_history(frame, features.observed))
        forecaster = self.forecaster
        if features.known or features.static:
            tables = _tables(frame.with_columns(history["series_id"], history["timestamp"]), features)
            forecaster = forecaster.knowing(
                Covariates.of(features, forecaster.window_config.frequency, tables)
            )
        if features.known and history["value"].is_not_nan().any():
            newest = pl.col("timestamp").filter(pl.col("value").is_not_nan()).max()
            history = history.filter(pl.col("timestamp") <= newest)
        return latest(forecaster, history)


def columns_of(features: Features) -> dict[str, Column | None]:
    """The columns that a history has beside `HISTORY`, with how those are read that tables hold."""
    found: dict[str, Column | None] = dict.fromkeys(features.observed)
    return found | {column.name: column for column in (*features.known, *features.static)}


def _tables(frame: pl.DataFrame, features: Features) -> Tables:
    known = frame.select(SERIES, TIME, *(column.name for column in features.known))
    # A series' first cell that holds something; the numbers of rows are those of the request no more.
    names = [column.name for column in features.static]
    given = [frame[name].set(~cells.given(frame[name]), None) for name in names]
    static = pl.DataFrame([frame[SERIES], *given]).group_by(SERIES, maintain_order=True)
    static_frame = static.agg(pl.col(names).drop_nulls().first())
    return Tables(
        Table(known, "the history") if features.known else None,
        Table(static_frame, "the series of the history") if names else None,
    )


def latest(forecaster: Forecaster, history: pl.DataFrame) -> pl.DataFrame:
    """The last forecast of every series of an observation frame, one row a horizon, from a cold start.

    Args:
        forecaster: weights and settings.
        history: observation frame; a row whose value is missing (NaN) closes the windows up to it alone.
    """
    freq = forecaster.window_config.frequency
    rows = _last_lives(history.filter(pl.col("value").is_not_nan()), forecaster.window_config)
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
        # MLflow's signatures know no 16 bit integers.
        .with_columns(pl.col("horizon").cast(pl.Int32))
    )


def _last_lives(rows: pl.DataFrame, config: WindowConfig) -> pl.DataFrame:
    """The rows of each series after it last was silent for so long that it begins anew.

    Nothing before counts for its last forecast.
    """
    window = config.frequency.window(pl.col("timestamp"))
    begins = (pl.col("_window").diff() > config.max_gap + 1).fill_null(False)
    life = begins.cum_sum().over("series_id")
    marked = rows.with_columns(window.alias("_window")).sort("_window").with_columns(life.alias("_life"))
    return marked.filter(pl.col("_life") == pl.col("_life").max().over("series_id")).drop("_window", "_life")


def _checked(history: pl.DataFrame) -> pl.DataFrame:
    """The history, if each of its rows is an observation, or would be one if it had a value.

    Raises:
        DataError: a row is none; the line names the first.
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


def _history(frame: pl.DataFrame, observed: tuple[str, ...]) -> pl.DataFrame:
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
    """MLflow's entry point of models before `forecaster.registry.loader`."""
    return ServedForecaster(Forecaster.load(Path(path)))
