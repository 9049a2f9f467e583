"""A forecaster behind MLflow's ``python_function`` interface: history in, the latest forecast out.

MLflow imports this module by name to load a registered version; nothing here imports MLflow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from forecaster.model import Forecaster
from forecaster.stepping import advance
from schemas.errors import DataError

HISTORY = {
    "series_id": pl.String(),
    "timestamp": pl.Datetime("us", "UTC"),
    "value": pl.Float64(),
}


class ServedForecaster:
    """What MLflow serves: it keeps no state, so every call brings the history it should see."""

    def __init__(self, forecaster: Forecaster) -> None:
        self.forecaster = forecaster

    def predict(self, frame: Any, params: object = None) -> Any:
        """The last forecast of every series after a history, from a cold start.

        Args:
            frame: a Polars or pandas frame with the columns ``series_id`` (string), ``timestamp`` (datetime;
                without a zone it is read as UTC) and ``value`` (number, null or NaN where missing).
            params: not used; MLflow hands it over.

        Returns:
            One row a series and horizon, in the library of ``frame``: ``series_id``, ``issued_at`` (UTC),
            ``model_version``, ``horizon`` (windows ahead) and one column a quantile, such as ``q50``, in the
            unit of ``value``.

        Raises:
            DataError: a column is missing or of another type.
        """
        if isinstance(frame, pl.DataFrame):
            return latest(self.forecaster, _history(frame))
        stamps = frame.get("timestamp")
        if getattr(getattr(stamps, "dtype", None), "tz", None) is not None:
            # Without its zone a column crosses to Polars in every release of pandas; it is read as UTC again.
            frame = frame.assign(timestamp=stamps.dt.tz_convert(None))
        return latest(self.forecaster, _history(pl.from_pandas(frame))).to_pandas()


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


def _history(frame: pl.DataFrame) -> pl.DataFrame:
    missing = [name for name in HISTORY if name not in frame.columns]
    if missing:
        raise DataError(f"the history has no column {missing[0]!r}: it needs {', '.join(HISTORY)}")
    stamp = frame.schema["timestamp"]
    if isinstance(stamp, pl.Datetime) and stamp.time_zone is None:
        frame = frame.with_columns(pl.col("timestamp").dt.replace_time_zone("UTC"))
    elif not isinstance(stamp, pl.Datetime):
        raise DataError(f"the history's column 'timestamp' holds {stamp}: make it a datetime")
    try:
        return frame.select(pl.col(name).cast(dtype) for name, dtype in HISTORY.items())
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"the history cannot be read as numbers by series and time: {reason}") from error


def _load_pyfunc(path: str) -> ServedForecaster:
    """MLflow's entry point: ``path`` is the folder that `Forecaster.save` wrote."""
    return ServedForecaster(Forecaster.load(Path(path)))
