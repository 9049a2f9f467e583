"""Forecasts of series that have not begun, from what is known of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from forecaster.arrays import Floats
from forecaster.cold_start import trajectory
from forecaster.covariates.encoding import SERIES, Table
from forecaster.model import Forecaster
from forecaster.threads import compute_threads
from forecaster.time.windows import MICROSECONDS
from pipelines.sinks.files import Format, write_frame
from schemas import cells
from schemas.errors import ConfigError, DataError, OutputError
from schemas.forecasts import check_forecasts


@compute_threads(1)
def run_cold_start(
    forecaster: Forecaster, series: Table, at: datetime, horizon: int, first: str | None = None
) -> pl.DataFrame:
    """A trajectory of each new series, as a forecast frame (``schemas.forecasts``).

    Args:
        forecaster: with the job's table of what is known of windows.
        series: a row a series: ``series_id``, and the static columns that the forecaster was trained with.
        at: where the first window begins.
        horizon: windows to forecast.
        first: column with the value of each series in the first window; None where nothing was observed.

    Raises:
        ConfigError: no window begins at ``at``.
        DataError: the table cannot be read; the line names file and column.
        ModelError: the forecaster cannot forecast what has not begun.
    """
    freq, at_us = forecaster.window_config.frequency, round(at.timestamp() * MICROSECONDS)
    start = freq.window_of(at_us)
    if (start_us := freq.start_us(start)) != at_us:
        begins = datetime.fromtimestamp(start_us / MICROSECONDS, UTC)
        raise ConfigError(
            f"--at {at.isoformat()}: no window of {forecaster.window_config.freq} begins then: write "
            f"{begins.isoformat()}"
        )
    _check_ids(series)
    values = None if first is None else _first_values(series, first)
    made = trajectory(forecaster, series.frame, start, horizon, values, series.name)
    return check_forecasts(made.frame())


def write_cold_start(forecasts: pl.DataFrame, file: Path, format_: Format) -> None:
    """Writes them into a file.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        write_frame(forecasts, file, format_)
    except OSError as error:
        raise OutputError(f"{file}: cannot be written ({error.strerror})") from error


def _check_ids(series: Table) -> None:
    ids = series.frame[SERIES]
    if not len(ids):
        raise DataError(f"{series.name}: holds no series: write a row for each")
    if not (there := cells.names(ids).str.contains(r"\S").fill_null(False)).all():
        raise DataError(f"{series.name}: row {int(there.arg_min() or 0) + 1}: column {SERIES}: is empty")


def _first_values(series: Table, column: str) -> Floats:
    if column not in series.frame.columns:
        raise DataError(f"{series.name}: has no column {column} (--first): name one that it has")
    found = cells.numbers(series.frame[column]).to_numpy()
    if not (known := np.isfinite(found)).all():
        row = int(known.argmin())
        raise DataError(
            f"{series.name}: row {row + 1}: column {column}: {series.frame[column][row]!r} is no number: "
            "each series needs a first value, or leave --first out"
        )
    return found
