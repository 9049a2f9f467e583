"""Forecast the series of files after their last rows; first train a model if none is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from forecaster.forecast_frame import FleetForecast, forecast_with, select, train_and_forecast
from forecaster.model import Forecaster
from forecaster.threads import compute_threads
from forecaster.time.aggregation import aggregate
from forecaster.time.notices import gap_notices, window_notices
from forecaster.time.windows import Windows
from forecaster.training.epochs import Epoch
from pipelines.jobs.frequency import with_frequency
from pipelines.jobs.progress import SILENT, Progress
from pipelines.settings.config import JobConfig
from pipelines.sources.files.covariates import read_tables
from pipelines.sources.files.load_all import load_observations


@dataclass(frozen=True)
class FileForecast:
    """The result of `forecast_files`: the forecasts of all series, and the counts of rows.

    Attributes:
        forecasts: flat forecasts, see `forecaster.forecast_frame.forecast`.
        scores: backtest, see `forecaster.forecast_frame.FleetForecast`.
        forecaster: the forecaster that made the forecasts.
        freq: length of the windows.
        reason: why ``freq`` fits the rows; None if it was given.
        windows: the history of the series.
        rows, quarantined, duplicates, outside: numbers of rows: read and valid, rejected, replaced by a later
            row of the same time, and outside the time bounds.
        notices: lines that the user should see.
    """

    forecasts: pl.DataFrame
    scores: pl.DataFrame
    forecaster: Forecaster
    freq: str
    reason: str | None
    windows: Windows
    rows: int
    quarantined: int
    duplicates: int
    outside: int
    notices: tuple[str, ...]


@compute_threads(1)
def forecast_files(
    job: JobConfig,
    forecaster: Forecaster | None,
    quantiles: Sequence[float],
    progress: Progress = SILENT,
) -> FileForecast:
    """Forecast every series in a job's files; the forecast of a series begins after its own last value.

    Args:
        job: settings. If they give no ``windows.freq``, it is inferred from the rows.
        forecaster: the model to use, with its tables of covariates; None trains one with the job's settings,
            which is not registered.
        quantiles: levels to return beside the median.
        progress: reports the progress.

    Raises:
        StatecastError: a file, a setting or the model is at fault; the message is one line.
    """
    if forecaster is not None:
        job = job.model_copy(update={"windows": forecaster.window_config})
    loaded = load_observations(job, progress.rows)
    reason = None
    if forecaster is None:
        was_given = "freq" in job.windows.model_fields_set
        lines: list[str] = []
        job = with_frequency(job, loaded.rows, lines.append)
        for line in lines:
            progress.notice(line)
        reason = None if was_given else lines[0].partition(": ")[2]
    windows, duplicates, _ = aggregate(loaded.rows, job.windows, keep=job.data.duplicates)
    found = _train(job, windows, progress.epoch) if forecaster is None else forecast_with(forecaster, windows)
    # If this job trains a model, `with_frequency` has already reported windows that are too short.
    about_windows = gap_notices if forecaster is None else window_notices
    return FileForecast(
        forecasts=select(found.forecasts, job.network.horizon, quantiles),
        scores=found.scores,
        forecaster=found.forecaster,
        freq=job.windows.freq,
        reason=reason,
        windows=windows,
        rows=len(loaded.rows),
        quarantined=len(loaded.quarantined),
        duplicates=duplicates,
        outside=loaded.outside,
        notices=(*loaded.notices, *loaded.skipped, *about_windows(windows.filled, job.windows)),
    )


def _train(job: JobConfig, windows: Windows, on_epoch: Callable[[Epoch], None]) -> FleetForecast:
    tables = read_tables(job.covariates)
    return train_and_forecast(windows, job.windows, job.network, job.training, on_epoch, job.online, tables)
