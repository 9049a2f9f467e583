"""Search for settings: score trials by rolling validation, then train and register the best one.

MLflow gets a parent run and a child run for every trial. The first trial has the settings of the job itself,
so the best trial scores at least as high as the job. A tree-structured Parzen estimator draws the settings of
the other trials (Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization"). A trial that is worse
than the median of the other trials at the same epoch is pruned (Golovin et al. 2017, "Google Vizier", section
3.2.2).
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
from forecaster.registry.references import check_model_name
from forecaster.registry.registry import Registry, Run
from forecaster.threads import compute_threads
from forecaster.time.windows import Windows
from forecaster.training.train import Epoch, held_out_from, loss_of, train
from pipelines.jobs.registry import open_registry, run_tags, training_params
from pipelines.jobs.train import TrainOutcome, learn, read
from pipelines.settings.config import JobConfig
from pipelines.sources.files.covariates import read_tables
from pipelines.storage import Location
from schemas.errors import ConfigError, DataError

TRIAL_SKILL = "sweep/skill_validation"
"""The metric of a trial: its skill on the held-out windows, averaged over the folds."""
_FOLDS = 2
_RANDOM_TRIALS = 5  # trials with random settings, before the estimator draws and the median prunes

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Attributes:
        number: number of the trial, from 1; trial 1 has the settings of the job itself.
        ended: ``finished``, ``pruned`` (stopped early, worse than the median) or ``failed``.
        skill: ``validation_skill`` (see `forecaster.training.train.Trained.history`) of the best epoch,
            averaged over the folds; higher is better. For a pruned trial, the last value; None if the trial
            failed.
        settings: the settings, by dotted name, that replace settings of the job.
        seconds: duration.
        run_id: MLflow run.
    """

    number: int
    ended: Literal["finished", "pruned", "failed"]
    skill: float | None
    settings: dict[str, Any]
    seconds: float
    run_id: str


@dataclass(frozen=True)
class SweepOutcome:
    """The result of a sweep.

    Attributes:
        trained: result of the training with the settings of the best trial.
        trials: all trials.
        best: the best trial.
    """

    trained: TrainOutcome
    trials: tuple[Trial, ...]
    best: Trial

    def as_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        return {**self.trained.as_json(), "trials": [vars(t) for t in self.trials], "best": self.best.number}


@dataclass(frozen=True)
class Progress:
    """Functions that a sweep calls with its progress.

    Attributes:
        rows: called with the number of rows of each piece that was read.
        trial: called after every trial.
        epoch: called after every epoch of the last training.
    """

    rows: Callable[[int], None] = lambda rows: None
    trial: Callable[[Trial], None] = lambda trial: None
    epoch: Callable[[Epoch], None] = lambda epoch: None


@dataclass
class _Sweep:
    """The state of a running sweep.

    Attributes:
        config: settings of the job.
        name: name of the parent run.
        registry: MLflow.
        parent: the parent run.
        windows: the training data.
        study: Optuna's study, which draws settings and prunes trials.
        trials: the trials that have ended.
        failure: error of the last failed trial.
    """

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
    """Run ``trials`` trials, then train and register a model with the settings of the best trial.

    No trial uses the windows of the backtest: all folds of the rolling validation end before them. If the
    sweep is interrupted, MLflow keeps the trials that have ended, and the parent run a table of them.

    Args:
        config: settings of the job and of the first trial.
        name: name of the parent run; the name of a trial is ``NAME-NUMBER``.
        trials: number of trials.
        progress: functions that are called with the progress.
        states: see `pipelines.jobs.train.run_training`.

    Raises:
        ConfigError: ``training.validation`` is 0, so no window is held out to score trials.
        StatecastError: a file or the store is at fault, or no trial finished; the message is one line.
    """
    progress = progress or Progress()
    check_model_name(config.mlflow.model)
    if config.training.validation == 0:
        raise ConfigError(
            "training.validation = 0.0: a sweep scores trials on held-out windows; set it above 0"
        )
    registry = open_registry(config.mlflow)
    with registry.start_run(name, {}, run_tags(config, "sweep")) as run:
        data = read(config, progress.rows)
        sweep = _Sweep(config, name, registry, run, data.windows, _study(config, trials))
        try:
            for number in range(1, trials + 1):
                sweep.trials.append(_run_trial(sweep, number))
                _log_progress(sweep)
                progress.trial(sweep.trials[-1])
        finally:
            if sweep.trials:
                run.log_frame(trials_frame(sweep.trials, config), "sweep/trials.json")
        best = best_of(sweep.trials)
        if best is None:
            raise sweep.failure or DataError("no trial of the sweep finished")
        chosen = with_settings(config, best.settings)
        run.log_params(training_params(chosen))
        return SweepOutcome(learn(run, chosen, data, progress.epoch, states), tuple(sweep.trials), best)


def best_of(trials: list[Trial]) -> Trial | None:
    """Return the finished trial with the highest skill; None if no trial has finished."""
    finished = [trial for trial in trials if trial.ended == "finished"]
    return max(finished, key=lambda trial: trial.skill or 0.0, default=None)


def trials_frame(trials: list[Trial], config: JobConfig) -> pl.DataFrame:
    """Return a row for each trial, the best first: ``trial, ended, skill, seconds, run_id`` and settings.

    The settings are all those that some trial has changed; ``config`` has their values in the first trial.
    """
    names = list(dict.fromkeys(name for trial in trials for name in trial.settings))
    own = config.flat()
    rows = [
        {
            "trial": trial.number,
            "ended": trial.ended,
            "skill": trial.skill,
            **{name: trial.settings.get(name, own.get(name)) for name in names},
            "seconds": trial.seconds,
            "run_id": trial.run_id,
        }
        for trial in trials
    ]
    order = pl.col("ended").replace_strict({"finished": 0, "pruned": 1, "failed": 2})
    return pl.DataFrame(rows, infer_schema_length=None).sort(order, -pl.col("skill"), nulls_last=True)


def with_settings(config: JobConfig, settings: dict[str, Any]) -> JobConfig:
    """Return a copy of ``config`` with some settings replaced, which are given by dotted name."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    changed = {name: getattr(config, name).model_copy(update=new) for name, new in sections.items()}
    return config.model_copy(update=changed)


def draw_settings(trial: optuna.Trial) -> dict[str, Any]:
    """Draw the settings of a trial and return them by dotted name."""
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
    """Yield the folds of the rolling validation: training windows, with the training settings for them.

    The last windows of each fold are held out to score its epochs. The first fold ends where the windows of
    the backtest begin; each later fold ends where the held-out windows of the fold before it begin.
    """
    validated_from, backtest_from = held_out_from(len(windows.values), training)
    held_out = backtest_from - validated_from
    for number in range(_FOLDS):
        rows = backtest_from - number * held_out
        if number and rows <= 2 * held_out:
            return  # too few training windows are left for a meaningful score
        changes = {"validation": held_out / rows, "backtest": 0.0, "refit": False}
        yield windows.rows(0, rows), training.model_copy(update=changes)


def _study(config: JobConfig, trials: int) -> optuna.Study:
    sampler = optuna.samplers.TPESampler(seed=config.training.seed, n_startup_trials=_RANDOM_TRIALS)
    warm = config.training.epochs // 3
    pruner = optuna.pruners.MedianPruner(
        n_startup_trials=min(_RANDOM_TRIALS, trials // 3), n_warmup_steps=warm
    )
    return optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)


def _run_trial(sweep: _Sweep, number: int) -> Trial:
    """Run one trial in a child run, and report its result to the study."""
    drawn = sweep.study.ask() if number > 1 else None
    settings = {} if drawn is None else draw_settings(drawn)
    config = with_settings(sweep.config, settings)
    began, tags = time.monotonic(), run_tags(config, "trial")
    skills: list[float] = []
    run_id = ""
    try:
        with sweep.registry.start_run(
            f"{sweep.name}-{number}", training_params(config), tags, parent=sweep.parent
        ) as run:
            run_id = run.run_id
            ended = _train_folds(config, sweep.windows, run, drawn, skills)
            run.log_metrics({TRIAL_SKILL: float(np.mean(skills))})
            run.log_tags({"statecast.trial": ended})
    except DataError as error:  # the loss diverged; a trial with another learning rate may finish
        ended, sweep.failure = "failed", error
    skill = None if ended == "failed" else float(np.mean(skills))
    if drawn is not None:
        states = optuna.trial.TrialState
        state = {"finished": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}[ended]
        sweep.study.tell(drawn, skill if ended == "finished" else None, state)
    return Trial(number, ended, skill, settings, time.monotonic() - began, run_id)


def _train_folds(
    config: JobConfig, windows: Windows, run: Run, drawn: optuna.Trial | None, skills: list[float]
) -> Literal["finished", "pruned", "failed"]:
    """Train on every fold and append its skill to ``skills``, or the last skill if the trial is pruned.

    Returns:
        How the trial ended.

    Raises:
        DataError: the loss diverged.
    """
    skill, done, tables = 0.0, 0, read_tables(config.covariates)

    def log(epoch: Epoch) -> None:
        nonlocal skill
        if "validation_skill" not in epoch:
            raise ConfigError("no held-out window has a value to score trials: raise training.validation")
        skill, number = epoch["validation_skill"], int(epoch["epoch"])
        run.log_epoch({**epoch, "epoch": number + done})
        if drawn is not None and not done:  # Optuna compares trials by epoch, so report the first fold only
            drawn.report(skill, number)
            if drawn.should_prune():
                raise optuna.TrialPruned

    for part, training in folds(windows, config.training):
        try:
            trained = train(part, config.network, training, config.windows, log, tables=tables)
        except optuna.TrialPruned:
            skills.append(skill)
            return "pruned"
        skills.append(min(trained.history, key=loss_of)["validation_skill"])
        done += len(trained.history)
    return "finished"


def _log_progress(sweep: _Sweep) -> None:
    trial, best = sweep.trials[-1], best_of(sweep.trials)
    points = {"sweep/skill_by_trial": trial.skill, "sweep/best_by_trial": best.skill if best else None}
    sweep.parent.log_points({k: v for k, v in points.items() if v is not None}, trial.number)
