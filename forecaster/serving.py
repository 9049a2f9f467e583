"""A forecaster behind MLflow's ``python_function`` interface: history in, the latest forecast out.

What a model was trained with beside the values comes with the request, as columns of the history: static
covariates, which are the same in all rows of a series; those that are observed; and those that are known
ahead, in further rows without a value, after the last that has one.

MLflow imports this module by name to load a registered version; nothing here imports MLflow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from forecaster.covariates import Covariates
from forecaster.features import SERIES, TIME, Column, Features, Table, Tables
from forecaster.model import Forecaster
from forecaster.stepping import advance
from forecaster.threads import compute_threads
from schemas import cells
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
            DataError: a column is missing or of another type.
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
        history = _history(frame, features.observed)
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
    """The last forecast of every series of an observation frame, one row a horizon, from a cold start."""
    _, forecasts = advance(forecaster, forecaster.initial_state(), history)
    return (
        forecasts.frame()
        .sort("series_id", "issued_at")
        .group_by("series_id", maintain_order=True)
        .last()
        .explode("forecast")
        .unnest("forecast")
        .drop("revision", "p_value", "alarm")
        # MLflow's signatures know no 16 bit integers.
        .with_columns(pl.col("horizon").cast(pl.Int32))
    )


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
        history = frame.select(pl.col(name).cast(dtype) for name, dtype in HISTORY.items())
        past = [pl.col(name).cast(pl.Float64).fill_nan(None).alias(OBSERVED + name) for name in observed]
        return history.with_columns(pl.col("value").fill_null(float("nan")), *frame.select(past))
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"the history cannot be read as numbers by series and time: {reason}") from error


def _load_pyfunc(path: str) -> ServedForecaster:
    """MLflow's entry point: ``path`` is the folder that `Forecaster.save` wrote."""
    return ServedForecaster(Forecaster.load(Path(path)))
