"""Forecast series that have no observations yet, from their static covariates."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from forecaster.arrays import Floats
from forecaster.covariates.encoding import SERIES, Table
from forecaster.model import Forecaster
from forecaster.stepping.cold_start import trajectory
from forecaster.threads import compute_threads
from forecaster.time.windows import MICROSECONDS
from pipelines.sinks.files import Format, write_frame
from pipelines.storage import output_errors
from schemas import cells
from schemas.errors import ConfigError, DataError
from schemas.forecasts import check_forecasts


@compute_threads(1)
def run_cold_start(
    forecaster: Forecaster, series: Table, at: datetime, horizon: int, first: str | None = None
) -> pl.DataFrame:
    """Forecast the first windows of new series and return them as a forecast frame (``schemas.forecasts``).

    Args:
        forecaster: a forecaster with the job's table of known covariates.
        series: one row for each series, with ``series_id`` and the static columns that the forecaster was
            trained with.
        at: start of the first window.
        horizon: number of windows to forecast.
        first: column with the value of each series in the first window; None if there are no first values.

    Raises:
        ConfigError: no window begins at ``at``.
        DataError: the table is invalid; the message contains the file, and the column that is at fault.
        ModelError: the forecaster has no decoder, which forecasts of new series need.
    """
    freq, at_us = forecaster.window_config.frequency, round(at.timestamp() * MICROSECONDS)
    start = freq.window_of(at_us)
    if (start_us := freq.start_us(start)) != at_us:
        begins = datetime.fromtimestamp(start_us / MICROSECONDS, UTC)
        raise ConfigError(
            f"--at {at.isoformat()}: no window of {forecaster.window_config.freq} begins at this time; use "
            f"{begins.isoformat()}"
        )
    _check_ids(series)
    values = None if first is None else _first_values(series, first)
    made = trajectory(forecaster, series.frame, start, horizon, values, series.name)
    return check_forecasts(made.frame())


def write_cold_start(forecasts: pl.DataFrame, file: Path, format_: Format) -> None:
    """Write the forecasts of `run_cold_start` into a file.

    Raises:
        OutputError: the file cannot be written.
    """
    with output_errors(f"{file}: cannot be written"):
        write_frame(forecasts, file, format_)


def _check_ids(series: Table) -> None:
    ids = series.frame[SERIES]
    if not len(ids):
        raise DataError(f"{series.name}: holds no series: write one row for each series")
    if not (is_given := cells.names(ids).str.contains(r"\S").fill_null(False)).all():
        raise DataError(f"{series.name}: row {int(is_given.arg_min() or 0) + 1}: column {SERIES}: is empty")


def _first_values(series: Table, column: str) -> Floats:
    if column not in series.frame.columns:
        raise DataError(
            f"{series.name}: has no column {column} (--first): its columns are "
            f"{', '.join(series.frame.columns)}"
        )
    found = cells.numbers(series.frame[column]).to_numpy()
    if not (is_number := np.isfinite(found)).all():
        row = int(is_number.argmin())
        raise DataError(
            f"{series.name}: row {row + 1}: column {column}: {series.frame[column][row]!r} is not a number; "
            "give each series a first value, or leave --first out"
        )
    return found
