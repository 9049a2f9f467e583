"""The training job: read files, train a model, and write a run with plots and a model version to MLflow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from forecaster.covariates.encoding import Tables
from forecaster.evaluation.backtest import backtest
from forecaster.evaluation.gradients import gradient_norms
from forecaster.evaluation.scores import calibration, fans, series_scale
from forecaster.model import Forecaster
from forecaster.registry.registry import Run
from forecaster.registry.store import check_model_name
from forecaster.registry.versions import Version
from forecaster.reports import plots
from forecaster.reports.gradient_plot import gradient_figure
from forecaster.shards.shard import Shard
from forecaster.shards.sharding import reshard
from forecaster.stepping import advance
from forecaster.threads import compute_threads
from forecaster.time.aggregation import aggregate
from forecaster.time.notices import window_notices
from forecaster.time.windows import Windows
from forecaster.training.epochs import Epoch
from forecaster.training.train import Trained, held_out_from, train
from pipelines.jobs.registry import open_registry
from pipelines.settings.config import JobConfig
from pipelines.sources.files.covariates import read_tables
from pipelines.sources.files.load_all import LoadedRows, load_observations
from pipelines.state import state_table
from pipelines.storage import Location
from schemas import replaced
from schemas.errors import ModelError

_BACKTEST_SERIES = 100  # enough to compare versions; more would take long for a large fleet
_FANS = 3
_BLOCK_STEPS = 25_600  # the most series times windows in one block of `write_states`


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
        """Duration of all epochs of both phases."""
        refit = sum(epoch["refit_seconds"] for epoch in self.refit_history)
        return sum(epoch["seconds"] for epoch in self.history) + refit

    def as_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        apart = ("version", "history", "refit_history", "scores")
        plain = {k: v for k, v in vars(self).items() if k not in apart}
        version = {k: v if isinstance(v, (str, int)) else str(v) for k, v in asdict(self.version).items()}
        epochs = {"epochs": self.history, "refit_epochs": self.refit_history}
        return {**plain, "version": version, **epochs, "backtest": self.scores.to_dicts()}


@dataclass(frozen=True)
class TrainingData:
    """The data of a training.

    Attributes:
        loaded: the observations, and the rows that were left out.
        windows: the observations, aggregated to windows.
        duplicates: number of rows that were ignored because a later row has the same series and time.
        replaced: the duplicates whose value differs from the later row's (``schemas.replaced``).
        tables: the tables of static and known covariates.
    """

    loaded: LoadedRows
    windows: Windows
    duplicates: int
    replaced: pl.DataFrame
    tables: Tables


@compute_threads(1)
def run_training(
    config: JobConfig,
    name: str,
    on_rows: Callable[[int], None] = lambda rows: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    states: Location | None = None,
) -> TrainOutcome:
    """Train on the files of a job, and log the run and register the model in MLflow.

    Args:
        config: settings of the job.
        name: name of the run.
        on_rows: called with the number of rows of each piece that was read.
        on_epoch: called after every epoch.
        states: path for a state table from which a stream can start, with every series after its last
            window; None writes no table.

    Raises:
        StatecastError: a file, a setting or the store is at fault; the message is one line.
    """
    check_model_name(config.mlflow.model)
    registry = open_registry(config.mlflow)
    data = read(config, on_rows)
    with registry.start_run(name, config.flat(), {"statecast.cell": config.network.cell}) as run:
        return learn(run, config, data, on_epoch, states)


def read(config: JobConfig, on_rows: Callable[[int], None]) -> TrainingData:
    """Read the files of a job and aggregate their rows to windows.

    Raises:
        StatecastError: a file is at fault; the message is one line.
    """
    tables = read_tables(config.covariates)
    loaded = load_observations(config, on_rows)
    return TrainingData(loaded, *aggregate(loaded.rows, config.windows), tables)


def learn(
    run: Run,
    config: JobConfig,
    data: TrainingData,
    on_epoch: Callable[[Epoch], None],
    states: Location | None = None,
) -> TrainOutcome:
    """Train a model and register it, then log the backtest and the plots; all in ``run``.

    The model is registered first. A score or plot that fails after that adds a line to ``run.notices`` and
    raises no error, so that the trained model is not lost.

    Raises:
        StatecastError: the data or the store is at fault; the message is one line.
    """
    loaded, windows = data.loaded, data.windows
    run.log_dataset(loaded.rows, "observations", config.data.paths[0])
    if len(loaded.quarantined):
        run.log_frame(loaded.quarantined, "quarantine.parquet")
    if len(data.replaced):
        run.log_frame(data.replaced, "replaced.parquet")

    def log(epoch: Epoch) -> None:
        with run.notice_on_error(f"epoch {epoch['epoch']:.0f}"):
            run.log_epoch(epoch)
        on_epoch(epoch)

    trained = train(windows, config.network, config.training, config.windows, log, config.online, data.tables)
    version = _register(run, trained.forecaster, config.mlflow.model, loaded.rows.head(5))
    with run.notice_on_error("the scale of each series"):
        run.log_scale(series_scale(windows, config.windows))
    if states is not None:
        write_states(states, trained.forecaster, windows, config.jobs.shards)
    run.log_figure(lambda: plots.loss_figure(trained.history), "plots/loss.png")
    with run.notice_on_error("the gradients"):
        _log_gradients(run, trained.forecaster, windows, config)
    scores = pl.DataFrame()
    with run.notice_on_error("the backtest"):
        own, scores = _backtest(trained, windows, config)
        if len(own):
            _log_backtest(run, own, scores, config)
    quarantined = len(loaded.quarantined)
    lost = replaced.notice(len(data.replaced), "replaced.parquet among the run's files")
    gaps = window_notices(windows.filled, config.windows)
    return TrainOutcome(
        run_id=run.run_id,
        version=version,
        history=trained.history,
        refit_history=trained.refit_history,
        scores=scores,
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
            *_quarantine_notices(loaded.quarantined),
            *lost,
            *gaps,
            *run.notices,
        ),
    )


def _register(run: Run, forecaster: Forecaster, name: str, example: pl.DataFrame) -> Version:
    """Register a trained forecaster; if the store refuses it, save it in the working folder.

    Raises:
        ModelError: the store refuses the model; the message contains the folder.
    """
    try:
        return run.log_model(forecaster, name, example)
    except Exception as error:
        folder = Path(f"{name}-{forecaster.version}").absolute()
        forecaster.save(folder)
        raise ModelError(
            f"the model was trained and cannot be registered: {error}; it was saved in {folder}: use it "
            f"with --model {folder}"
        ) from error


def write_states(folder: Location, forecaster: Forecaster, windows: Windows, shards: int) -> None:
    """Step every series through ``windows`` and write the states as a state table of ``shards`` shards.

    The states of the training itself cannot be used, because the weights changed while they were computed.

    Raises:
        OutputError: the folder cannot be written.
    """
    state, size = forecaster.initial_state(), max(_BLOCK_STEPS // len(windows.series_ids), 1)
    for first in range(0, len(windows.values), size):
        state, _ = advance(forecaster, state, windows.rows(first, first + size))
    whole = replace(Shard.cold(0, 1, state, ()), closed_through=windows.stop - 1)
    state_table.write(folder, reshard([whole], shards))


def _quarantine_notices(quarantined: pl.DataFrame) -> list[str]:
    """Return a line with the number of quarantined rows and the first reason; no line if there are none."""
    if not len(quarantined):
        return []
    first = quarantined.row(0, named=True)
    line = f"{len(quarantined):,} rows were quarantined, the first: {first['file']}, row {first['row']}: "
    return [line + f"{first['reason']} (all rows: quarantine.parquet among the run's files)"]


def _log_gradients(run: Run, forecaster: Forecaster, windows: Windows, config: JobConfig) -> None:
    """Log the norm of the gradient by lag; it shows how many windows back the network learns from."""
    norms = gradient_norms(forecaster, windows, config.training.segment)
    for lag, norm in enumerate(norms.tolist()):
        run.log_points({"gradient_norm_by_lag": norm}, lag)
    if len(norms) > 1:
        run.log_figure(lambda: gradient_figure(norms, config.network.cell), "plots/gradient_norm_by_lag.png")


def _backtest(trained: Trained, windows: Windows, config: JobConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return errors and scores of the best weights on the held-out last windows; empty if there are none."""
    _, first = held_out_from(len(windows.values), config.training)
    if first >= len(windows.values) or first == 0:
        return pl.DataFrame(), pl.DataFrame()
    chosen = np.unique(np.linspace(0, len(windows.series_ids) - 1, _BACKTEST_SERIES, dtype=int))
    own, scores = backtest(trained.chosen, windows.of_series(chosen), first)
    return own, scores if len(own) else pl.DataFrame()


def _log_backtest(run: Run, own: pl.DataFrame, scores: pl.DataFrame, config: JobConfig) -> None:
    """Log the scores and the pictures of a backtest in a run."""
    cell = config.network.cell
    with run.notice_on_error("the scores of the backtest"):
        run.log_frame(scores, "backtest/scores.json")
        own_rows = scores.filter(pl.col("model") == cell)
        for row in own_rows.to_dicts():
            run.log_points(
                {f"backtest_{name}_by_horizon": row[name] for name in ("mae", "pinball", "coverage")},
                row["horizon"],
            )
        run.log_metrics({f"backtest_{n}": float(own_rows[n].mean()) for n in ("mae", "pinball", "coverage")})  # type: ignore[arg-type]
    run.log_figure(lambda: plots.error_by_horizon_figure(scores), "plots/error_by_horizon.png")
    levels = calibration(own)
    run.log_figure(
        lambda: plots.calibration_figure(levels["level"].to_list(), levels["observed"].to_list(), cell),
        "plots/calibration.png",
    )
    ids = own["series_id"].unique(maintain_order=True)
    for number, series_id in enumerate(ids.gather_every(max(len(ids) // _FANS, 1)).to_list()[:_FANS]):
        fan = fans(own, series_id, config.windows.frequency)
        if len(fan):
            draw = partial(plots.fan_figure, fan, f"{series_id}, backtest")
            run.log_figure(draw, f"plots/fan_{number + 1}.png")
