"""Run a training: read files, train a model, and log a run with plots and a model version in MLflow."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from forecaster.covariates.encoding import Tables
from forecaster.evaluation.backtest import Backtest
from forecaster.evaluation.gradients import gradient_norms
from forecaster.evaluation.scores import series_scale
from forecaster.evaluation.skill import PERSISTENCE, SEASONAL_NAIVE
from forecaster.model import Forecaster
from forecaster.registry.aliases import training_tags
from forecaster.registry.references import check_model_name
from forecaster.registry.registry import Run
from forecaster.registry.versions import SCALE_FILE, Version, scale_frame
from forecaster.reports import plots
from forecaster.reports.gradient_plot import gradient_figure
from forecaster.shards.shard import Shard
from forecaster.shards.sharding import reshard
from forecaster.stepping.advance import advance
from forecaster.threads import compute_threads
from forecaster.time.aggregation import aggregate
from forecaster.time.notices import gap_notices
from forecaster.time.windows import Windows
from forecaster.training.epochs import Epoch
from forecaster.training.train import Trained, train
from pipelines.jobs.backtest_log import backtest_of, log_backtest
from pipelines.jobs.first_version import challenger_notice, first_alias, learned_until
from pipelines.jobs.frequency import with_frequency
from pipelines.jobs.progress import SILENT, Progress
from pipelines.jobs.registry import log_job_file, open_registry, run_tags, training_params
from pipelines.settings.config import JobConfig
from pipelines.sources.files.covariates import read_tables
from pipelines.sources.files.load_all import LoadedRows, load_observations
from pipelines.state import state_table
from pipelines.storage import Location
from schemas import quarantine, replaced
from schemas.errors import DataError, StatecastError

# Largest number of series times windows in a block of `write_states`. A block has at least one window.
_BLOCK_STEPS = 25_600


@dataclass(frozen=True)
class TrainOutcome:
    """The result of a training.

    Attributes:
        run_id: MLflow run.
        version: registered model version.
        history, refit_history: epochs of the two phases, see `forecaster.training.train.Trained`.
        scores: backtest of the first phase's best weights on the last windows, with the baselines
            (``schemas.scores``). With ``training.refit`` the registered weights were trained on these
            windows, too.
        series, windows: size of the training data.
        rows_in, used, quarantined, duplicates, outside: counts of rows: all, and by outcome.
        notices: lines that the user should see.
    """

    run_id: str
    version: Version
    history: list[Epoch]
    refit_history: list[Epoch]
    scores: pl.DataFrame
    series: int
    windows: int
    rows_in: int
    used: int
    quarantined: int
    duplicates: int
    outside: int
    notices: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """The total duration of the epochs of the training and of its refit, in seconds."""
        return seconds_of(self.history, self.refit_history)

    def as_json(self) -> dict[str, Any]:
        """Return the object that ``statecast train --json`` prints."""
        apart = ("version", "history", "refit_history", "scores")
        plain = {k: v for k, v in vars(self).items() if k not in apart}
        version = {k: v if isinstance(v, (str, int)) else str(v) for k, v in asdict(self.version).items()}
        epochs = {"epochs": self.history, "refit_epochs": self.refit_history}
        return {**plain, "version": version, **epochs, "backtest": self.scores.to_dicts()}


def seconds_of(history: list[Epoch], refit_history: list[Epoch]) -> float:
    """Return the total duration of the epochs of a training and of the epochs of its refit, in seconds."""
    refit = sum(epoch["refit_seconds"] for epoch in refit_history)
    return sum(epoch["seconds"] for epoch in history) + refit


@dataclass(frozen=True)
class TrainingData:
    """The data that a training reads, and the rows that were left out, as frames or as counts.

    Attributes:
        config: the settings of the job, with the frequency of the rows if the job gives none.
        loaded: the observations, and the rows that were left out.
        windows: the observations, aggregated to windows.
        duplicates: number of rows that do not count, because another row is of the same time or event.
        replaced: the duplicates that differ from the row that counts (``schemas.replaced``).
        tables: the tables of static and known covariates.
    """

    config: JobConfig
    loaded: LoadedRows
    windows: Windows
    duplicates: int
    replaced: pl.DataFrame
    tables: Tables


@compute_threads(1)
def run_training(
    config: JobConfig,
    name: str,
    progress: Progress = SILENT,
    states: Location | None = None,
) -> TrainOutcome:
    """Train a model on the files of a job, log the training in an MLflow run, and register the model.

    Args:
        config: settings of the job.
        name: name of the run.
        progress: reports the progress.
        states: path for a state table from which a stream can start, with every series after its last
            window; None writes no table.

    Raises:
        StatecastError: a file, a setting or the store is at fault; the message is one line.
    """
    check_model_name(config.mlflow.model)
    registry = open_registry(config.mlflow)
    # `start_run` creates a missing MLflow store. Without a store, read the data before, so that a bad file
    # creates none. With a store, read the data inside the run, so that a bad file leaves a failed run.
    data = None if registry.exists else read(config, progress)
    with registry.start_run(name, training_params(config), run_tags(config, "train")) as run:
        data = data or read(config, progress)
        run.log_params({"windows.freq": data.config.windows.freq})
        return learn(run, data.config, data, progress, states)


def log_failed_run(config: JobConfig, name: str, failure: DataError) -> None:
    """Log a failed MLflow run for a training that could not start, because its input files are invalid."""
    with (
        # Suppress ``failure`` and any error of the MLflow store, because the caller raises ``failure``.
        suppress(StatecastError),
        open_registry(config.mlflow).start_run(name, training_params(config), run_tags(config, "train")),
    ):
        raise failure


def read(config: JobConfig, progress: Progress) -> TrainingData:
    """Read the files of a job and aggregate their rows to windows; infer the frequency if it is not given.

    Raises:
        StatecastError: a file is at fault; the message is one line.
    """
    tables = read_tables(config.covariates)
    loaded = load_observations(config, progress.rows)
    config = with_frequency(config, loaded.rows, progress.notice)
    found = aggregate(loaded.rows, config.windows, keep=config.data.duplicates)
    return TrainingData(config, loaded, *found, tables)


def learn(
    run: Run,
    config: JobConfig,
    data: TrainingData,
    progress: Progress,
    states: Location | None = None,
) -> TrainOutcome:
    """Train a model, register it, and log its backtest and plots, all in the MLflow run ``run``.

    The model is first saved on the disk, then registered. If logging fails after that, a line is added to
    ``run.notices`` and no error is raised, so that the trained model is not lost.

    Raises:
        StatecastError: the data or the store is at fault; the message is one line.
    """
    loaded, windows = data.loaded, data.windows
    run.log_dataset(loaded.rows, config.data.paths)
    log_job_file(run, config)
    if len(loaded.quarantined):
        run.log_frame(loaded.quarantined, "quarantine.parquet")
    if len(data.replaced):
        run.log_frame(data.replaced, "replaced.parquet")

    trained = train(
        windows, config.network, config.training, config.windows,
        progress.log_epoch_in(run), config.online, data.tables,
    )  # fmt: skip
    tags = training_tags(learned_until(windows, trained, config))
    run.log_model(trained.forecaster, config.mlflow.model, loaded.rows.head(5), tags)
    if states is not None:
        write_states(states, trained.forecaster, windows, config.jobs.shards)
    found = _log_results(run, trained, windows, config)
    version = run.registered()
    quarantined = len(loaded.quarantined)
    lost = replaced.notice(len(data.replaced), "replaced.parquet among the run's files")
    gaps = gap_notices(windows.filled, config.windows)
    return TrainOutcome(
        run_id=run.run_id,
        version=version,
        history=trained.history,
        refit_history=trained.refit_history,
        scores=pl.DataFrame() if found is None else found.comparison.scores,
        series=len(windows.series_ids),
        windows=len(windows.values),
        rows_in=len(loaded.rows) + quarantined,
        used=len(loaded.rows) - data.duplicates,
        quarantined=quarantined,
        duplicates=data.duplicates,
        outside=loaded.outside,
        notices=(
            *loaded.notices,
            *loaded.skipped,
            *quarantine.notice(loaded.quarantined, "quarantine.parquet among the run's files"),
            *lost,
            *gaps,
            *run.notices,
            *challenger_notice(version, *first_alias(found)),
        ),
    )


def _log_results(run: Run, trained: Trained, windows: Windows, config: JobConfig) -> Backtest | None:
    """Log a training, describe its version, give it an alias if there is no champion; return the backtest."""
    found = None
    run.log_metrics({"time/train_s": seconds_of(trained.history, trained.refit_history)}, of_model=True)
    with run.notice_on_error("the backtest"):
        found = backtest_of(trained, windows, config)
        if found is not None:
            log_backtest(run, found, config.windows.frequency)
    run.name_first_version(config.mlflow.model, *first_alias(found))
    with run.notice_on_error("the description of the version"):
        run.describe_version(config.mlflow.model, description(trained.forecaster, windows, found))
    with run.notice_on_error("the scale of each series"):
        run.log_frame(scale_frame(series_scale(windows, config.windows)), SCALE_FILE)
    run.log_figure(lambda: plots.loss_figure(trained.history), "plots/loss.png")
    with run.notice_on_error("the gradients"):
        _log_gradients(run, trained.forecaster, windows, config)
    return found


def description(forecaster: Forecaster, windows: Windows, found: Backtest | None) -> str:
    """Return a text that describes a model version: the network, the training data, and the backtest."""
    network, freq = forecaster.network_config, forecaster.window_config.frequency
    first_us, last_us = freq.start_us(np.array([windows.start, windows.stop - 1]))
    first, last = (datetime.fromtimestamp(us / 1e6, UTC) for us in (first_us, last_us))
    text = (
        f"{network.cell.upper()} with {network.layers} x {network.hidden} cells, horizon {network.horizon}; "
        f"trained on {len(windows.series_ids):,} series from {first:%Y-%m-%d} to {last:%Y-%m-%d} "
        f"({len(windows.values):,} windows of {forecaster.window_config.freq})"
    )
    if found is None:
        return f"{text}; no backtest"
    gains = [
        f"{gain:+.1%} against {baseline}"
        for baseline in (PERSISTENCE, SEASONAL_NAIVE)
        if (gain := found.comparison.skill(baseline)) is not None
    ]
    return f"{text}; skill in the backtest {' and '.join(gains)}"


def write_states(folder: Location, forecaster: Forecaster, windows: Windows, shards: int) -> None:
    """Step every series through ``windows`` and write the states as a state table of ``shards`` shards.

    The states from the training itself cannot be used, because they were computed with changing weights.

    Raises:
        OutputError: the folder cannot be written.
    """
    state, size = forecaster.initial_state(), max(_BLOCK_STEPS // len(windows.series_ids), 1)
    for first in range(0, len(windows.values), size):
        state, _ = advance(forecaster, state, windows.rows(first, first + size))
    whole = replace(Shard.cold(0, 1, state, ()), closed_through=windows.stop - 1)
    state_table.write(folder, reshard([whole], shards))


def _log_gradients(run: Run, forecaster: Forecaster, windows: Windows, config: JobConfig) -> None:
    """Log the norm of the gradient by lag, which shows from how many windows back the network learns."""
    norms = gradient_norms(forecaster, windows, config.training.segment)
    run.log_curves({lag: {"gradient/norm_by_lag": norm} for lag, norm in enumerate(norms.tolist())})
    if len(norms) > 1:
        run.log_figure(lambda: gradient_figure(norms, config.network.cell), "plots/gradient_norm_by_lag.png")
