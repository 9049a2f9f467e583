"""Run a rolling evaluation: train on the first windows, step through all, score each member on test rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from forecaster.evaluation.metrics import COVERAGE, Tally
from forecaster.evaluation.rolling import (
    FanSample,
    Split,
    normalised,
    rolling_forecasts,
    tally,
    training_scale,
)
from forecaster.model import Forecaster
from forecaster.reports import plots
from forecaster.threads import compute_threads
from forecaster.time.aggregation import aggregate
from forecaster.time.notices import gap_notices
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from forecaster.training.train import train
from pipelines.jobs.frequency import with_frequency
from pipelines.jobs.progress import SILENT, Progress
from pipelines.jobs.registry import log_job_file, open_registry, run_tags, training_params
from pipelines.jobs.rolling_scores import Evaluated, errors_by_horizon, log_evaluation, score_figures, scored
from pipelines.settings.config import JobConfig
from pipelines.sources.files.covariates import read_tables
from pipelines.sources.files.load_all import LoadedRows, load_observations
from schemas import quarantine, replaced
from schemas.errors import DataError

_INTERVAL = ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)


@dataclass(frozen=True)
class RollingJob:
    """The settings of a rolling evaluation; here, a row is one window of all series, counted from 0.

    Attributes:
        config: data, windows, network and training settings, and the MLflow store. The largest of
            ``horizons`` replaces the network's horizon. Unless the settings name quantiles, the quantiles .05
            and .95 are added.
        horizons: horizons that are scored.
        train_rows: number of rows at the beginning; the network is trained on these rows only.
        first: the first test row; None for the row after the training rows.
        stop: one past the last test row; None for the end of the file.
        normalize: ``train`` gives every series mean 0 and standard deviation 1 on its training rows.
        name: name of the run.
    """

    config: JobConfig
    horizons: tuple[int, ...]
    train_rows: int
    first: int | None = None
    stop: int | None = None
    normalize: Literal["none", "train"] = "none"
    name: str = "evaluation"

    @property
    def run_config(self) -> JobConfig:
        """The training settings: ``config`` with the largest of `horizons` as the horizon of the network.

        Unless ``config`` sets the quantiles, the quantiles of the scored interval are added.
        """
        network = self.config.network
        changes: dict[str, object] = {"network.horizon": max(self.horizons)}
        if "quantiles" not in network.model_fields_set:
            near = [level for level in network.quantiles if not np.isclose(level, _INTERVAL).any()]
            changes["network.quantiles"] = tuple(sorted((*near, *(round(level, 6) for level in _INTERVAL))))
        return self.config.with_settings(changes)

    def params(self) -> dict[str, object]:
        """Return the parameters of a rolling evaluation that its MLflow run logs, by dotted name."""
        horizons = ",".join(map(str, self.horizons))
        rows = {"train_rows": self.train_rows, "test_from": self.first, "test_to": self.stop}
        own = {"horizons": horizons, "normalize": self.normalize, **rows}
        return training_params(self.run_config) | {f"evaluate.{key}": value for key, value in own.items()}


@compute_threads(1)
def run_rolling(job: RollingJob, progress: Progress = SILENT) -> Evaluated:
    """Train on the first windows of the job's files, score the test rows, and log the scores in MLflow.

    Raises:
        StatecastError: a file, a setting or the store is at fault; the message is one line.
    """
    config = job.run_config
    registry = open_registry(config.mlflow)
    tables = read_tables(config.covariates)
    loaded = load_observations(config, progress.rows)
    job = replace(job, config=with_frequency(job.config, loaded.rows, progress.notice))
    config = job.run_config
    found = aggregate(loaded.rows, config.windows, keep=config.data.duplicates)
    windows, split = windows_and_split(job, found.windows)
    with registry.start_run(job.name, job.params(), run_tags(config, "rolling evaluation")) as run:
        run.log_dataset(loaded.rows, config.data.paths, "evaluation")
        log_job_file(run, config)
        began_s = time.monotonic()
        training_windows = windows.rows(0, split.train_rows)
        trained = train(
            training_windows, config.network, config.training, config.windows,
            progress.log_epoch_in(run), config.online, tables,
        )  # fmt: skip
        trained_s = time.monotonic()
        fans = FanSample(windows, split, config.windows.frequency)
        tallies = _step_and_score(trained.forecaster, windows, split, fans, progress.windows)
        stepped_s = time.monotonic()
        unit = training_scale(windows, split.train_rows, config.windows)
        scores, coverage_by_series = scored(tallies, job.horizons, unit, windows.series_ids)
        by_step = errors_by_horizon(tallies, unit)
        evaluated = Evaluated(
            scores,
            coverage_by_series,
            by_step,
            [
                *score_figures(tallies, by_step, fans),
                ("Training and validation loss by epoch.", partial(plots.loss_figure, trained.history)),
            ],
            trained_s - began_s,
            stepped_s - trained_s,
            len(windows.series_ids),
            len(windows.values),
            split,
            trained.forecaster.version,
            run.run_id,
            (
                *loaded.notices,
                *loaded.skipped,
                *_notices(loaded, windows, split, config.windows),
                *replaced.notice(len(found.replaced), "in the input, where they stay"),
            ),
        )
        log_evaluation(run, evaluated)
    return replace(evaluated, notices=(*evaluated.notices, *run.notices))


def _step_and_score(
    forecaster: Forecaster, windows: Windows, split: Split, fans: FanSample, on_windows: Callable[[int], None]
) -> dict[str, Tally]:
    """Step the forecaster through the windows, and return the errors of each member in the test rows.

    The steps begin at the first window, and end with the last row of ``split.issue_rows``. Some of the
    forecasts are added to ``fans``.
    """
    tallies: dict[str, Tally] = {}
    for block in rolling_forecasts(forecaster, windows, split, on_windows):
        tally(tallies, block)
        fans.add(block)
    return tallies


def windows_and_split(job: RollingJob, windows: Windows) -> tuple[Windows, Split]:
    """Return the windows (normalized if the job sets ``normalize``), and the split of training and test.

    Raises:
        ConfigError: the test rows overlap the training rows, or are too few for the horizon.
        DataError: the history is shorter than the rows that the job names.
    """
    config = job.run_config
    length = len(windows.values)
    if job.train_rows >= length:
        raise DataError(
            f"{config.data.paths[0]}: holds {length:,} windows of {config.windows.freq}; training on the "
            f"first {job.train_rows:,} leaves no test rows: give fewer training rows"
        )
    first = job.train_rows if job.first is None else job.first
    stop = length if job.stop is None else job.stop
    if stop > length:
        raise DataError(
            f"{config.data.paths[0]}: holds {length:,} windows of {config.windows.freq}, too few for test "
            f"rows that end at {stop:,}: choose an earlier end"
        )
    split = Split(job.train_rows, first, stop, max(job.horizons))
    if job.normalize == "train":
        windows = normalised(windows, job.train_rows, config.windows)
    return windows, split


def _notices(loaded: LoadedRows, windows: Windows, split: Split, config: WindowConfig) -> list[str]:
    lines = gap_notices(windows.filled, config) + quarantine.notice(loaded.quarantined)
    without = np.isnan(windows.values[: split.train_rows]).all(axis=0)
    if without.any():
        name = windows.series_ids[int(without.argmax())]
        lines.append(
            f"{int(without.sum()):,} series have no value in the training rows and are not scored, such as "
            f"{name}"
        )
    return lines
