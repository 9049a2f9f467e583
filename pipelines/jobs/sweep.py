"""A search for settings: trials judged by rolling validation, and the best of them trained for good.

A parent run in MLflow and a child for every trial. The first trial is the job as it stands, so that a sweep
is never worse, by its own measure, than none. The others are drawn by a tree-structured Parzen estimator
(Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization"); one that does worse than the median of
the others at the same epoch is given up (Golovin et al. 2017, "Google Vizier", section 3.2.2).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import optuna
import polars as pl

from forecaster.config import TrainingConfig
from forecaster.registry.registry import Registry, Run
from forecaster.registry.store import check_model_name
from forecaster.threads import compute_threads
from forecaster.time.windows import Windows
from forecaster.training.train import Epoch, held_out_from, loss_of, train
from pipelines.jobs.registry import open_registry
from pipelines.jobs.train import TrainOutcome, learn, read
from pipelines.settings.config import JobConfig
from pipelines.sources.files.covariates import read_tables
from pipelines.storage import Location
from schemas.errors import ConfigError, DataError

_FOLDS = 2
_FIRST_DRAWN = 5  # trials before the median and the estimator are believed

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Trial:
    """One choice of settings that was tried.

    Attributes:
        number: from 1; 1 is the job as it stands.
        ended: ``finished``, ``pruned`` (given up, no better than the median) or ``failed``.
        skill: `forecaster.training.train.Trained.history`'s ``validation_skill`` at the chosen epoch,
        averaged over
            folds: higher is better. Of a pruned trial the last there was; None of a failed one.
        settings: by dotted name, what was tried in place of the job's own.
        seconds: how long it took.
        run_id: its MLflow run.
    """

    number: int
    ended: Literal["finished", "pruned", "failed"]
    skill: float | None
    settings: dict[str, Any]
    seconds: float
    run_id: str


@dataclass(frozen=True)
class SweepOutcome:
    """A sweep that has ended.

    Attributes:
        trained: the best trial's settings, trained in both phases and registered.
        trials: all of them.
        best: the best one.
    """

    trained: TrainOutcome
    trials: tuple[Trial, ...]
    best: Trial

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {**self.trained.as_json(), "trials": [vars(t) for t in self.trials], "best": self.best.number}


@dataclass(frozen=True)
class Progress:
    """Whom a sweep tells how far it is."""

    rows: Callable[[int], None] = lambda rows: None
    trial: Callable[[Trial], None] = lambda trial: None
    epoch: Callable[[Epoch], None] = lambda epoch: None


@dataclass
class _Sweep:
    """A sweep under way."""

    config: JobConfig
    name: str
    registry: Registry
    parent: Run
    windows: Windows
    study: optuna.Study
    trials: list[Trial] = field(default_factory=list)
    failure: DataError | None = None


@compute_threads(1)
def run_sweep(
    config: JobConfig,
    name: str,
    trials: int,
    progress: Progress | None = None,
    states: Location | None = None,
) -> SweepOutcome:
    """Tries ``trials`` choices of settings, and trains and registers the best in the parent run.

    Nothing after the training windows is looked at: the folds of the rolling validation end before the
    backtest's windows. Interrupted, it leaves the trials that have ended in MLflow, and their table in the
    parent run.

    Args:
        config: the job, and the first trial.
        name: what the parent run is called; trials are numbered after it.
        trials: how many.
        progress: called as rows are read, trials end, and epochs of the last training pass.
        states: see `pipelines.jobs.train.run_training`.

    Raises:
        ConfigError: nothing would be held out to judge trials by.
        StatecastError: a file or the store is at fault, or no trial finished; one line.
    """
    progress = progress or Progress()
    check_model_name(config.mlflow.model)
    if config.training.validation == 0:
        raise ConfigError(
            "training.validation = 0.0: a sweep judges trials on held-out windows; give it some"
        )
    registry = open_registry(config.mlflow)
    data = read(config, progress.rows)
    tags = {"statecast.cell": config.network.cell, "statecast.job": "sweep"}
    with registry.start_run(name, {}, tags) as run:
        sweep = _Sweep(config, name, registry, run, data.windows, _study(config, trials))
        try:
            for number in range(1, trials + 1):
                sweep.trials.append(_tried(sweep, number))
                _log_progress(sweep)
                progress.trial(sweep.trials[-1])
        finally:
            if sweep.trials:
                run.log_frame(trials_frame(sweep.trials), "sweep/trials.json")
        best = best_of(sweep.trials)
        if best is None:
            raise sweep.failure or DataError("no trial of the sweep finished")
        chosen = with_settings(config, best.settings)
        run.log_params(chosen.flat())
        return SweepOutcome(learn(run, chosen, data, progress.epoch, states), tuple(sweep.trials), best)


def best_of(trials: list[Trial]) -> Trial | None:
    """The finished trial of the highest skill; None where none has finished."""
    finished = [trial for trial in trials if trial.ended == "finished"]
    return max(finished, key=lambda trial: trial.skill or 0.0, default=None)


def trials_frame(trials: list[Trial]) -> pl.DataFrame:
    """One row a trial, the best first: ``trial, ended, skill, seconds, run_id`` and the settings."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.settings))
    rows = [
        {
            "trial": trial.number,
            "ended": trial.ended,
            "skill": trial.skill,
            **{name: trial.settings.get(name) for name in names},
            "seconds": trial.seconds,
            "run_id": trial.run_id,
        }
        for trial in trials
    ]
    order = pl.col("ended").replace_strict({"finished": 0, "pruned": 1, "failed": 2})
    return pl.DataFrame(rows, infer_schema_length=None).sort(order, -pl.col("skill"), nulls_last=True)


def with_settings(config: JobConfig, settings: dict[str, Any]) -> JobConfig:
    """The job with some settings, by dotted name, in place of its own."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    changed = {name: getattr(config, name).model_copy(update=new) for name, new in sections.items()}
    return config.model_copy(update=changed)


def suggested(trial: optuna.Trial) -> dict[str, Any]:
    """The settings that are searched, by dotted name."""
    return {
        "network.hidden": trial.suggest_int("network.hidden", 16, 128, step=16),
        "network.layers": trial.suggest_int("network.layers", 1, 3),
        "network.halflife": trial.suggest_int("network.halflife", 24, 672, log=True),
        "training.learning_rate": trial.suggest_float("training.learning_rate", 5e-4, 2e-2, log=True),
        "training.weight_decay": trial.suggest_float("training.weight_decay", 1e-4, 1e-1, log=True),
        "training.dropout": trial.suggest_float("training.dropout", 0.0, 0.4),
        "training.segment": trial.suggest_categorical("training.segment", [16, 32, 64, 96]),
    }


def folds(windows: Windows, training: TrainingConfig) -> Iterator[tuple[Windows, TrainingConfig]]:
    """Training windows that end ever earlier, each where what the one before holds out begins.

    The last windows of each score its epochs. None reaches into the windows of the backtest.
    """
    validated_from, judged_from = held_out_from(len(windows.values), training)
    held_out = judged_from - validated_from
    for number in range(_FOLDS):
        rows = judged_from - number * held_out
        if number and rows <= 2 * held_out:
            return  # what is left to learn from says little about what it will be
        changes = {"validation": held_out / rows, "backtest": 0.0, "refit": False}
        yield windows.rows(0, rows), training.model_copy(update=changes)


def _study(config: JobConfig, trials: int) -> optuna.Study:
    sampler = optuna.samplers.TPESampler(seed=config.training.seed, n_startup_trials=_FIRST_DRAWN)
    warm = config.training.epochs // 3
    pruner = optuna.pruners.MedianPruner(n_startup_trials=min(_FIRST_DRAWN, trials // 3), n_warmup_steps=warm)
    return optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)


def _tried(sweep: _Sweep, number: int) -> Trial:
    """One trial in a child run of its own, told to the study."""
    drawn = sweep.study.ask() if number > 1 else None
    settings = {} if drawn is None else suggested(drawn)
    config = with_settings(sweep.config, settings)
    began, tags = time.monotonic(), {"statecast.cell": config.network.cell, "statecast.job": "trial"}
    skills: list[float] = []
    run_id = ""
    try:
        with sweep.registry.start_run(
            f"{sweep.name}-{number}", config.flat(), tags, parent=sweep.parent
        ) as run:
            run_id = run.run_id
            ended = _rolled(config, sweep.windows, run, drawn, skills)
            run.log_metrics({"rolling_validation_skill": float(np.mean(skills))})
    except DataError as error:  # its loss ran away: another rate may do
        ended, sweep.failure = "failed", error
    skill = None if ended == "failed" else float(np.mean(skills))
    if drawn is not None:
        states = optuna.trial.TrialState
        state = {"finished": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}[ended]
        sweep.study.tell(drawn, skill if ended == "finished" else None, state)
    return Trial(number, ended, skill, settings, time.monotonic() - began, run_id)


def _rolled(
    config: JobConfig, windows: Windows, run: Run, drawn: optuna.Trial | None, skills: list[float]
) -> Literal["finished", "pruned", "failed"]:
    """Trains on every fold; ``skills`` gets that of each, or the last before the trial was given up."""
    seen, done, tables = 0.0, 0, read_tables(config.covariates)

    def log(epoch: Epoch) -> None:
        nonlocal seen
        if "validation_skill" not in epoch:
            raise ConfigError("no held-out window has a value to judge trials by: raise training.validation")
        seen, number = epoch["validation_skill"], int(epoch["epoch"])
        run.log_epoch({**epoch, "epoch": number + done})
        if drawn is not None and not done:  # epochs of one fold only can be compared between trials
            drawn.report(seen, number)
            if drawn.should_prune():
                raise optuna.TrialPruned

    for part, training in folds(windows, config.training):
        try:
            trained = train(part, config.network, training, config.windows, log, tables=tables)
        except optuna.TrialPruned:
            skills.append(seen)
            return "pruned"
        skills.append(min(trained.history, key=loss_of)["validation_skill"])
        done += len(trained.history)
    return "finished"


def _log_progress(sweep: _Sweep) -> None:
    trial, best = sweep.trials[-1], best_of(sweep.trials)
    points = {"trial_skill": trial.skill, "best_skill": best.skill if best else None}
    sweep.parent.log_points({k: v for k, v in points.items() if v is not None}, trial.number)
