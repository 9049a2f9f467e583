"""Retrain a registered model on recent data, starting from its weights, and register the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from forecaster.config import TrainingConfig
from forecaster.registry.aliases import training_tags
from forecaster.registry.registry import Registry, Run, Version
from forecaster.time.windows import MICROSECONDS, Windows
from forecaster.training.epochs import Epoch
from forecaster.training.train import Trained, held_out_from, train
from pipelines.jobs.compare import Contender, RecentData, comparing_on, contender, read_recent
from pipelines.jobs.first_version import CHALLENGER, CHAMPION
from pipelines.jobs.progress import SILENT, Progress
from pipelines.jobs.promotion import Gated, decide_in, version_in_use
from pipelines.jobs.registry import log_job_file, open_registry, run_tags, training_params
from pipelines.settings.config import JobConfig
from pipelines.sources.files.covariates import read_tables
from schemas.errors import DataError

_DIVISOR = 3  # a retraining has a third of the epochs and of the learning rate of a training


@dataclass(frozen=True)
class Retrained:
    """The result of a retraining.

    Attributes:
        parent: the version whose weights the training started from.
        version: the new version; None if no epoch was better than the weights of the parent.
        run_id: MLflow run.
        trained: the training.
        gated: the decision of the gate; None if it was not requested, or there is no new version.
        notices: lines that the user should see, besides the notices of ``gated``.
    """

    parent: Version
    version: Version | None
    run_id: str
    trained: Trained = field(repr=False)
    gated: Gated | None
    notices: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        return {
            "parent": str(self.parent),
            "version": None if self.version is None else str(self.version),
            "model_version": self.trained.forecaster.version,
            "run_id": self.run_id,
            "epochs": self.trained.history,
            "refit_epochs": self.trained.refit_history,
            "gate": None if self.gated is None else self.gated.as_json(),
        }


def fine_tuning(training: TrainingConfig, epochs: int | None = None) -> TrainingConfig:
    """Return the settings of a fine-tuning: a third of the epochs and of the peak learning rate.

    A smaller learning rate preserves what the weights have learned from earlier data (Howard & Ruder 2018,
    "Universal language model fine-tuning for text classification", section 3.2).

    Args:
        training: settings of a training from random weights.
        epochs: number of epochs, instead of a third.
    """
    return training.model_copy(
        update={
            "epochs": epochs or -(-training.epochs // _DIVISOR),
            "learning_rate": training.learning_rate / _DIVISOR,
        }
    )


def run_retraining(
    config: JobConfig,
    ref: str,
    *,
    gate: bool = False,
    epochs: int | None = None,
    progress: Progress = SILENT,
) -> Retrained:
    """Retrain the model that ``ref`` names; if an epoch improves it, register the result as the challenger.

    The last windows, a share ``training.backtest`` of all, are held out. On these windows, the gate compares
    the new version with the champion.

    Args:
        config: data, covariates, training, gate and MLflow store; network, windows and experts are
            taken from the model.
        ref: a registered model: ``NAME`` (its champion), ``NAME@ALIAS`` or ``NAME/3``.
        gate: whether to compare the new version with the champion, and to promote it if it passes.
        epochs: number of epochs; by default a third of ``training.epochs``.
        progress: functions that report the progress.

    Raises:
        StatecastError: a file, a setting, a model or the store is at fault; the message is one line.
    """
    registry = open_registry(config.mlflow)
    parent = registry.aliases.find(ref)
    if gate:
        version_in_use(registry, parent.name, CHAMPION)  # fail before the training if there is no champion
    start = contender(registry, str(parent))
    model = start.forecaster
    config = config.model_copy(
        update={
            "windows": model.window_config,
            "network": model.network_config,
            "online": model.online_config,
            "training": fine_tuning(config.training, epochs),
        }
    )
    data = read_recent(config, model, progress.rows)
    learned = _learned_windows(config, data.windows)
    tags = {
        **run_tags(config, "retrain"),
        "mlflow.parentRunId": parent.run_id,
        "statecast.parent": f"{parent} = {parent.model_version}",
    }
    with registry.start_run(f"retrain {parent}", training_params(config), tags) as run:
        trained = _train(run, config, start, data, learned, progress.log_epoch_in(run))
        version = _register(run, registry, config, parent, trained, data, learned)
    gated = None
    if version is not None and gate:
        gated = _gate(registry, config, version, data, progress.windows)
    # Do not repeat the notices about the data if the result of the gate contains them.
    notices = (*(data.notices if gated is None else ()), *run.notices)
    return Retrained(parent, version, run.run_id, trained, gated, notices)


def _learned_windows(config: JobConfig, windows: Windows) -> Windows:
    """Return the windows that a retraining learns from: all except the windows of the backtest.

    Raises:
        DataError: no window is left to learn from.
    """
    _, first = held_out_from(len(windows.values), config.training)
    if first < 2:
        raise DataError(
            f"{config.data.paths[0]}: holds {len(windows.values):,} windows, too few to retrain: give more "
            "rows"
        )
    return windows.rows(0, first)


def _train(
    run: Run,
    config: JobConfig,
    start: Contender,
    data: RecentData,
    learned: Windows,
    log_epoch: Callable[[Epoch], None],
) -> Trained:
    """Retrain the model ``start`` from its weights; log the data set, job file and epochs in ``run``."""
    run.log_dataset(data.rows, config.data.paths)
    log_job_file(run, config)

    training = config.training.model_copy(update={"backtest": 0.0})
    tables = read_tables(config.covariates)
    return train(
        learned, config.network, training, config.windows, log_epoch, config.online, tables, start.forecaster
    )


def _register(
    run: Run,
    registry: Registry,
    config: JobConfig,
    parent: Version,
    trained: Trained,
    data: RecentData,
    learned: Windows,
) -> Version | None:
    """Register retrained weights as challenger; return None if no epoch beat the weights of ``parent``."""
    if trained.forecaster.version == parent.model_version:
        run.log_tags({"statecast.outcome": "no epoch was better than the weights of the parent"})
        return None
    until_us = int(config.windows.frequency.end_us(learned.stop - 1))
    until = datetime.fromtimestamp(until_us / MICROSECONDS, UTC)
    run.log_model(trained.forecaster, parent.name, data.rows.head(5), training_tags(until, parent))
    span = f"{len(learned.series_ids):,} series, on rows until {until:%Y-%m-%d %H:%M} UTC"
    run.describe_version(parent.name, f"retrained from {parent} on {span}")
    version = run.registered()
    registry.promote(str(version), CHALLENGER, f"retrained from {parent}")
    return version


def _gate(
    registry: Registry,
    config: JobConfig,
    version: Version,
    data: RecentData,
    on_windows: Callable[[int], None],
) -> Gated:
    """Compare the retrained version with the champion, and promote it if it passes the gate."""
    current = version_in_use(registry, version.name, CHAMPION)
    contenders = contender(registry, str(current)), contender(registry, str(version))
    with comparing_on(registry, config, contenders, data, on_windows) as (run, compared):
        return decide_in(run, registry, config, version, current, CHAMPION, compared)
