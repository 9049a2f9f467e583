"""Score the forecasts in output folders against the actuals, beside the baselines, and write a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial, reduce
from pathlib import Path

import numpy as np
import polars as pl

from forecaster.config import CovariatesConfig
from forecaster.evaluation.baselines import persistence, seasonal_naive
from forecaster.evaluation.scores import (
    calibration,
    errors,
    fans,
    keep_common,
    score,
    series_scale,
    series_without_scale,
)
from forecaster.evaluation.skill import PERSISTENCE, SEASONAL_NAIVE, BaselineComparison
from forecaster.reports import fan_plot, plots
from forecaster.reports.html import Picture, error_table, write_report
from forecaster.time.aggregation import aggregate
from forecaster.time.frequency import Frequency
from forecaster.time.infer_freq import infer_freq
from forecaster.time.notices import window_notices
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import MICROSECONDS, Windows
from pipelines.jobs.registry import open_registry
from pipelines.settings.config import JobConfig
from pipelines.settings.setting_types import time_of
from pipelines.sinks.files import read_forecasts
from pipelines.sources.files.load_all import load_observations
from pipelines.storage import Location
from schemas import replaced
from schemas.errors import ConfigError, DataError

_FANS = 4
_UNIT = "in seasonal naive's own error (MASE) on each series' rows"


@dataclass(frozen=True)
class FolderEvaluation:
    """The result of an evaluation of stored forecasts: scores, forecasts with actuals, observations.

    Attributes:
        scores: scores by model and horizon (``schemas.scores``), with the baselines last.
        errors: forecasts joined with their actuals, by model; see `forecaster.evaluation.scores.errors`.
        comparisons: the errors and scores of each model beside the baselines.
        versions: model version by label.
        observations: the observations that the forecasts were compared with.
        rows: number of observed windows of each series.
        unit: description of the unit of the errors.
        freq: length of a window.
        notices: lines that the user should see.
    """

    scores: pl.DataFrame
    errors: Mapping[str, pl.DataFrame]
    comparisons: Mapping[str, BaselineComparison]
    versions: Mapping[str, str]
    observations: pl.DataFrame = field(repr=False)
    rows: Mapping[str, int]
    unit: str
    freq: Frequency
    notices: tuple[str, ...]


def evaluate_folders(
    job: JobConfig,
    folders: Sequence[Location],
    train_end: str | None = None,
    on_rows: Callable[[int], None] = lambda rows: None,
    issued_from: datetime | None = None,
) -> FolderEvaluation:
    """Score the forecasts in output folders against the observations of a job.

    Every model and baseline is scored on the series, issue times and horizons that all of them have.

    Args:
        job: settings; the section ``data`` names the observations, ``windows`` their aggregation.
        folders: output folders of backfills and streams.
        train_end: the errors of each series are divided by the error of seasonal naive on its rows before
            this time. None takes the rows before the first forecast. If these are too few, it takes the rows
            that the model was trained on.
        on_rows: called with the number of rows of each piece that was read.
        issued_from: earliest issue time of the forecasts that are scored.

    Raises:
        ConfigError: the forecasts have other windows than ``job``, or ``train_end`` is not a time.
        DataError: no forecast has an actual.
    """
    forecasts = pl.concat([read_forecasts(folder) for folder in folders])
    if issued_from is not None:
        forecasts = forecasts.filter(pl.col("issued_at") >= issued_from)
    if "freq" not in job.windows.model_fields_set:
        job = _with_freq_of(job, forecasts)
    freq = job.windows.frequency
    _check_freq(forecasts, freq)
    # Read only values, because the files may lack the covariates.
    loaded = load_observations(job.model_copy(update={"covariates": CovariatesConfig()}), on_rows)
    found = aggregate(loaded.rows, job.windows, keep=job.data.duplicates)
    windows, lost = found.windows, replaced.notice(len(found.replaced), "in the input, where they stay")
    parts = _by_label(forecasts)
    by_label = {label: errors(part, windows, job.windows) for label, part in parts.items()}
    for label, part in by_label.items():
        if not len(part):
            raise DataError(
                f"{job.data.paths[0]}: holds no actuals for the forecasts of {label}; name files "
                "with observations of the series and windows that were forecast"
            )
    own = next(iter(by_label.values()))
    version = str(forecasts.sort("issued_at")["model_version"][0])
    unit, words = _unit(windows, job, own, train_end, version)
    all_errors = _at_common_keys(by_label | _baseline_errors(own, windows, job.windows))
    scores = pl.concat([score(label, part, unit) for label, part in all_errors.items()])
    baselines = {label: part for label, part in all_errors.items() if label not in by_label}
    gaps = window_notices(windows.filled, job.windows)
    counts = (~np.isnan(windows.values)).sum(axis=0).tolist()
    return FolderEvaluation(
        scores,
        {label: all_errors[label] for label in by_label},
        {
            label: BaselineComparison(label, {label: all_errors[label], **baselines}, unit, scores)
            for label in by_label
        },
        {label: str(part["model_version"][0]) for label, part in parts.items()},
        loaded.rows,
        dict(zip(windows.series_ids, counts, strict=True)),
        words,
        freq,
        (*loaded.notices, *loaded.skipped, *lost, *gaps),
    )


def write_evaluation(
    evaluation: FolderEvaluation,
    path: Path,
    facts: Mapping[str, str] | None = None,
    latency_ms: Sequence[float] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write an HTML report with the errors by horizon and pictures of forecasts beside the actuals.

    Args:
        evaluation: result of `evaluate_folders`.
        path: path of the HTML file.
        facts: additional names and values for the top of the report.
        latency_ms: latencies of a stream; if empty, the report has no picture of latencies.
        notes: sentences for the end of the report.

    Returns:
        ``path``.
    """
    figures: list[Picture] = [
        (
            "Mean absolute error by horizon.",
            partial(plots.error_by_horizon_figure, evaluation.scores, evaluation.unit),
        )
    ]
    first = next(iter(evaluation.errors.values()))
    label = next(iter(evaluation.errors))
    ids = first["series_id"].unique().sort()
    for series_id in ids.gather_every(max(len(ids) // _FANS, 1)).to_list()[:_FANS]:
        fan = fans(first, series_id, evaluation.freq)
        if len(fan):
            draw = partial(fan_plot.fan_figure, fan, series_id)
            figures.append((f"{series_id}: forecasts of {label}, and actuals.", draw))
    for name, part in evaluation.errors.items():
        levels = calibration(part)
        if len(levels) > 1:
            columns = (levels["level"].to_list(), levels["observed"].to_list())
            draw = partial(plots.calibration_figure, *columns, name)
            figures.append((f"Calibration of {name}: share of actuals at or below each quantile.", draw))
    if latency_ms:
        caption = "Latency of the stream, from a window's last row to its forecasts on disk."
        figures.append((caption, partial(plots.latency_figure, list(latency_ms))))
    issued = first["issued_at"].dt.strftime("%Y-%m-%d %H:%M")
    top = {
        "series": f"{len(ids):,}",
        "forecasts issued": f"{issued.sort()[0]} to {issued.sort()[-1]} UTC",
        "errors": evaluation.unit,
        **(facts or {}),
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
    return write_report(
        path,
        title="Statecast: forecasts and actuals",
        facts=top,
        tables=[error_table(evaluation.scores, evaluation.unit)],
        figures=figures,
        notes=notes,
    )


def _baseline_errors(own: pl.DataFrame, windows: Windows, config: WindowConfig) -> dict[str, pl.DataFrame]:
    """Return the errors of each baseline at the series, issue times and horizons that ``own`` has.

    ``own`` holds the errors of a model. A baseline is left out if it has no forecast at any of these series,
    issue times and horizons.
    """
    issued = pl.col("issued_at").is_between(own["issued_at"].min(), own["issued_at"].max())
    horizon = int(own["horizon"].max())  # type: ignore[arg-type]
    found = {
        label: keep_common(own, errors(baseline(windows, config, horizon).filter(issued), windows, config))
        for label, baseline in ((PERSISTENCE, persistence), (SEASONAL_NAIVE, seasonal_naive))
    }
    return {label: part for label, part in found.items() if len(part)}


def _at_common_keys(by_label: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """Return each model's errors at the series, issue times and horizons that all models have."""
    common = reduce(lambda one, other: keep_common(other, one), by_label.values())
    return {label: keep_common(common, part) for label, part in by_label.items()}


def _by_label(forecasts: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Split forecasts by model version; return the parts by a label of the version.

    The labels are the names of the cells, such as ``lstm``. If two versions have the same cell, the labels
    are the versions.
    """
    parts = {str(key[0]): part for key, part in forecasts.partition_by("model_version", as_dict=True).items()}
    short = [version.rpartition("-")[0] for version in parts]
    if len(set(short)) == len(parts):
        return dict(zip(short, parts.values(), strict=True))
    return parts


def _with_freq_of(job: JobConfig, forecasts: pl.DataFrame) -> JobConfig:
    """Return the job with the frequency of the issue times; unchanged if no series has two issue times."""
    try:
        freq = infer_freq(forecasts.select("series_id", timestamp="issued_at")).freq
        return job.with_settings({"windows.freq": freq})
    except DataError:
        return job


def _check_freq(forecasts: pl.DataFrame, freq: Frequency) -> None:
    """Raise ConfigError if the issue times of forecasts do not fit windows of the frequency ``freq``.

    Every issue time must be the start of a window, and at least two must be only one window apart. A single
    issue time is not checked.
    """
    times = forecasts["issued_at"].unique().sort()
    apart = times.diff().drop_nulls().dt.total_seconds().sort()
    issued_us = times.to_physical().to_numpy()
    window = freq.window_of(issued_us)
    if len(apart) and ((freq.start_us(window) != issued_us).any() or np.diff(window).min() > 1):
        raise ConfigError(
            f"the forecasts, issued at least {apart[0]} s apart, do not fit windows.freq = {freq}: "
            "set --freq to the frequency that the model was trained with"
        )


def _unit(
    windows: Windows, job: JobConfig, own: pl.DataFrame, train_end: str | None, version: str
) -> tuple[dict[str, float], str]:
    """Return the unit by which the errors of each series are divided, and a description of it.

    The unit is the error of seasonal naive on the rows before the first forecast, or before ``train_end``.
    Some series may have too few of these rows, as after a backfill from the first row. Then the unit is the
    error on the rows that the model was trained on, from the model's MLflow run. Without such a run, errors
    stay in the unit of the values, and the returned mapping is empty.
    """
    config = job.windows
    if train_end is None:
        split, where = int(own["issued_at"].dt.epoch("us").min()), "the first forecast"  # type: ignore[arg-type]
    else:
        split, where = round(time_of("--train-end", train_end).timestamp() * MICROSECONDS), train_end
    before = windows.between(windows.start, config.frequency.window_of(split))
    series = set(own["series_id"].unique())
    if len(before.values) and not series.intersection(series_without_scale(before, config)):
        return series_scale(before, config), f"{_UNIT} before {where}"
    registry = open_registry(job.mlflow)
    trained = registry.training_scale(version) if train_end is None else None
    if trained is not None and series <= trained.keys():
        return trained, f"{_UNIT} that {version} was trained on"
    return (
        {},
        f"in the values' own unit: too few rows lie before {where} for MASE; set a later --train-end",
    )
