"""The training job: files in; a run with its plots and a registered model version in MLflow out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from forecaster.covariates.encoding import Tables
from forecaster.evaluation.baselines import persistence, seasonal_naive
from forecaster.evaluation.gradients import gradient_norms
from forecaster.evaluation.scores import calibration, errors, fans, matched, score, series_scale
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
from forecaster.time.notices import window_notices
from forecaster.time.windows import Windows, aggregate
from forecaster.training.train import Epoch, Trained, held_out_from, train
from pipelines.jobs.registry import open_registry
from pipelines.settings.config import JobConfig
from pipelines.sources.files.covariates import read_tables
from pipelines.sources.files.load_all import Loaded, load_observations
from pipelines.state import state_table
from pipelines.storage import Location
from schemas import replaced
from schemas.errors import ModelError

_BACKTEST_SERIES = 100  # enough to judge a version by; a large fleet need not be forecast twice
_FANS = 3
_BLOCK = 256  # windows at a time: all forecasts of a long history at once would not fit into memory
_BLOCK_STEPS = 25_600  # series-steps at a time, of a fleet of any size


@dataclass(frozen=True)
class TrainOutcome:
    """A training run that has ended.

    Attributes:
        run_id: MLflow run.
        version: registered model version.
        history, refit_history: epochs of the two phases, see `forecaster.training.train.Trained`.
        scores: backtest of the chosen weights on the last windows, with baselines (``schemas.scores``); what
            is registered has learned from these windows, too, where ``training.refit`` is on.
        series, windows: size of what was trained on.
        rows_in, used, quarantined, duplicates, outside: where the rows went.
        notices: lines that people should see.
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
        """How long all epochs of both phases took."""
        refit = sum(epoch["refit_seconds"] for epoch in self.refit_history)
        return sum(epoch["seconds"] for epoch in self.history) + refit

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        apart = ("version", "history", "refit_history", "scores")
        plain = {k: v for k, v in vars(self).items() if k not in apart}
        version = {k: v if isinstance(v, (str, int)) else str(v) for k, v in asdict(self.version).items()}
        epochs = {"epochs": self.history, "refit_epochs": self.refit_history}
        return {**plain, "version": version, **epochs, "backtest": self.scores.to_dicts()}


@dataclass(frozen=True)
class TrainingData:
    """What a training learns from.

    Attributes:
        loaded: the rows, and what became of those that are not among them.
        windows: the rows, aggregated.
        duplicates: rows that did not count because a later row has their series and time.
        replaced: those of them that held another value (``schemas.replaced``).
        tables: what is known beside the values.
    """

    loaded: Loaded
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
    """Trains on the job's files and keeps everything about it in MLflow.

    Args:
        config: the job.
        name: what the run is called.
        on_rows: called with the number of rows as they are read.
        on_epoch: called after every epoch.
        states: place of a state table that a stream can start from: every series after its last window.

    Raises:
        StatecastError: a file, a setting or the store is at fault; one line.
    """
    check_model_name(config.mlflow.model)
    registry = open_registry(config.mlflow)
    data = read(config, on_rows)
    with registry.start_run(name, config.flat(), {"statecast.cell": config.network.cell}) as run:
        return learn(run, config, data, on_epoch, states)


def read(config: JobConfig, on_rows: Callable[[int], None]) -> TrainingData:
    """The job's rows as windows.

    Raises:
        StatecastError: a file is at fault; one line.
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
    """Trains, registers what was refit, and judges and draws what was chosen, all of it in ``run``.

    The model is registered first, and what can only be looked at comes last, each in a boundary of its own.

    Raises:
        StatecastError: the data or the store is at fault; one line.
    """
    loaded, windows = data.loaded, data.windows
    run.log_dataset(loaded.rows, "observations", config.data.paths[0])
    if len(loaded.quarantined):
        run.log_frame(loaded.quarantined, "quarantine.parquet")
    if len(data.replaced):
        run.log_frame(data.replaced, "replaced.parquet")

    def log(epoch: Epoch) -> None:
        with run.beside_the_model(f"epoch {epoch['epoch']:.0f}"):
            run.log_epoch(epoch)
        on_epoch(epoch)

    trained = train(windows, config.network, config.training, config.windows, log, config.online, data.tables)
    version = _registered(run, trained.forecaster, config.mlflow.model, loaded.rows.head(5))
    with run.beside_the_model("the scale of each series"):
        run.log_scale(series_scale(windows, config.windows))
    if states is not None:
        write_states(states, trained.forecaster, windows, config.jobs.shards)
    run.log_figure(lambda: plots.loss_figure(trained.history), "plots/loss.png")
    with run.beside_the_model("the gradients"):
        _log_gradients(run, trained.forecaster, windows, config)
    scores = pl.DataFrame()
    with run.beside_the_model("the backtest"):
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
        notices=(*loaded.notices, *loaded.skipped, *_told(loaded.quarantined), *lost, *gaps, *run.notices),
    )


def _registered(run: Run, forecaster: Forecaster, name: str, example: pl.DataFrame) -> Version:
    """Register a trained forecaster; where the store refuses it, save it in a folder here.

    Raises:
        ModelError: the store refuses; the line names the folder.
    """
    try:
        return run.log_model(forecaster, name, example)
    except Exception as error:
        folder = Path(f"{name}-{forecaster.version}").absolute()
        forecaster.save(folder)
        raise ModelError(
            f"the model was trained and cannot be registered: {error}; it was saved in {folder}: jobs load "
            f"it with --model {folder}"
        ) from error


def write_states(folder: Location, forecaster: Forecaster, windows: Windows, shards: int) -> None:
    """Runs every series through ``windows`` and keeps where it stands as a state table of ``shards`` shards.

    Training has stepped every series to its end as well, but with weights that changed on the way: a state
    belongs to the weights that made it.

    Raises:
        OutputError: the folder cannot be written.
    """
    state, size = forecaster.initial_state(), max(_BLOCK_STEPS // len(windows.series_ids), 1)
    for first in range(0, len(windows.values), size):
        state, _ = advance(forecaster, state, windows.rows(first, first + size))
    whole = replace(Shard.cold(0, 1, state, ()), closed_through=windows.stop - 1)
    state_table.write(folder, reshard([whole], shards))


def _told(quarantined: pl.DataFrame) -> list[str]:
    """A line about the quarantined rows, with the first of them."""
    if not len(quarantined):
        return []
    first = quarantined.row(0, named=True)
    line = f"{len(quarantined):,} rows were quarantined, the first: {first['file']}, row {first['row']}: "
    return [line + f"{first['reason']} (all of them: quarantine.parquet among the run's files)"]


def backtest(forecaster: Forecaster, windows: Windows, first: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rolls a forecaster over ``windows`` and judges what it issued from row ``first`` on.

    Returns:
        Errors (see `forecaster.evaluation.scores.errors`) and scores, those of the baselines among them; each
        series' unit is that of its rows before ``first`` (`forecaster.evaluation.scores.series_scale`).
    """
    config, horizon = forecaster.window_config, forecaster.network_config.horizon
    state, judged = forecaster.initial_state(), []
    rows = len(windows.values)
    for start in [*range(0, first, _BLOCK), *range(first, rows, _BLOCK)]:
        stop = min(start + _BLOCK, first if start < first else rows)
        state, forecasts = advance(forecaster, state, windows.rows(start, stop))
        if start >= first:
            judged.append(errors(forecasts.frame(), windows, config))
    own = pl.concat(judged)
    unit = series_scale(windows.rows(0, first), config)
    table = [score(forecaster.network_config.cell, own, unit)]
    for label, baseline in (("persistence", persistence), ("seasonal naive", seasonal_naive)):
        naive = baseline(windows, config, horizon).filter(pl.col("issued_at") >= own["issued_at"].min())
        table.append(score(label, matched(own, errors(naive, windows, config)), unit))
    return own, pl.concat(table)


def _log_gradients(run: Run, forecaster: Forecaster, windows: Windows, config: JobConfig) -> None:
    """How far back gradients reach, as a curve that runs can be compared by, and as a picture."""
    norms = gradient_norms(forecaster, windows, config.training.segment)
    for lag, norm in enumerate(norms.tolist()):
        run.log_points({"gradient_norm_by_lag": norm}, lag)
    if len(norms) > 1:
        run.log_figure(lambda: gradient_figure(norms, config.network.cell), "plots/gradient_norm_by_lag.png")


def _backtest(trained: Trained, windows: Windows, config: JobConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Errors and scores on the last windows, unseen by the chosen weights; empty where none were held out."""
    _, first = held_out_from(len(windows.values), config.training)
    if first >= len(windows.values) or first == 0:
        return pl.DataFrame(), pl.DataFrame()
    chosen = np.unique(np.linspace(0, len(windows.series_ids) - 1, _BACKTEST_SERIES, dtype=int))
    own, scores = backtest(trained.chosen, windows.of_series(chosen), first)
    return own, scores if len(own) else pl.DataFrame()


def _log_backtest(run: Run, own: pl.DataFrame, scores: pl.DataFrame, config: JobConfig) -> None:
    """Scores and pictures of a backtest, into the run."""
    cell = config.network.cell
    with run.beside_the_model("the scores of the backtest"):
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
