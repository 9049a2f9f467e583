"""Search for settings: score trials by rolling validation, then train and register the best one.

MLflow gets a parent run and a child run for every trial. The first trial has the settings of the job itself,
so the best trial is at least as good as the job. A tree-structured Parzen estimator draws the settings of the
other trials (Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization"). A trial that is worse than
the median of the other trials at the same epoch is pruned (Golovin et al. 2017, "Google Vizier", section
3.2.2).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import optuna

from forecaster.registry.references import check_model_name
from forecaster.registry.registry import Registry, Run
from forecaster.threads import compute_threads
from forecaster.time.windows import Windows
from forecaster.training.epochs import Epoch
from forecaster.training.train import loss_of, train
from pipelines.jobs.progress import SILENT, Progress
from pipelines.jobs.registry import open_registry, run_tags, training_params
from pipelines.jobs.train import TrainOutcome, learn, read
from pipelines.jobs.trials import Trial, best_of, draw_settings, folds, new_study, trials_frame
from pipelines.settings.config import JobConfig
from pipelines.sources.files.covariates import read_tables
from pipelines.storage import Location
from schemas.errors import ConfigError, DataError

TRIAL_SKILL = "sweep/skill_validation"
"""The metric of a trial: its skill on the held-out windows, averaged over the folds."""


@dataclass(frozen=True)
class SweepOutcome:
    """The result of a sweep: its trials, and the model trained with the settings of the best trial.

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
    progress: Progress = SILENT,
    states: Location | None = None,
) -> SweepOutcome:
    """Run ``trials`` trials, then train and register a model with the settings of the best trial.

    No trial uses the windows of the backtest: all folds of the rolling validation end before them. If the
    sweep is interrupted, MLflow keeps the ended trials, and the parent run has a table of them.

    Args:
        config: settings of the job and of the first trial.
        name: name of the parent run; the name of a trial is ``NAME-NUMBER``.
        trials: number of trials.
        progress: functions that report the progress.
        states: see `pipelines.jobs.train.run_training`.

    Raises:
        ConfigError: ``training.validation`` is 0, so no window is held out to score trials.
        StatecastError: a file or the store is at fault, or no trial finished; the message is one line.
    """
    check_model_name(config.mlflow.model)
    if config.training.validation == 0:
        raise ConfigError(
            "training.validation = 0.0: a sweep scores trials on held-out windows; set it above 0"
        )
    registry = open_registry(config.mlflow)
    early = None if registry.exists else read(config, progress)
    with registry.start_run(name, {}, run_tags(config, "sweep")) as run:
        data = early or read(config, progress)
        config = data.config
        sweep = _Sweep(config, name, registry, run, data.windows, new_study(config, trials))
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
        chosen = config.with_settings(best.settings)
        run.log_params(training_params(chosen))
        return SweepOutcome(learn(run, chosen, data, progress, states), tuple(sweep.trials), best)


def _run_trial(sweep: _Sweep, number: int) -> Trial:
    """Run one trial of a sweep in a child run of MLflow, and report its result to Optuna's study.

    Trial 1 is not reported, because it has the job's own settings, which the study has not drawn.
    """
    drawn = sweep.study.ask() if number > 1 else None
    settings = {} if drawn is None else draw_settings(drawn)
    config = sweep.config.with_settings(settings)
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
    except DataError as error:  # for example, the loss diverged; another trial may still finish
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
    """Train on each fold of a trial until the trial is pruned; append the skill of each fold to ``skills``.

    Returns:
        How the trial ended.

    Raises:
        DataError: the loss diverged.
    """
    skill, done, tables = 0.0, 0, read_tables(config.covariates)

    def log(epoch: Epoch) -> None:
        nonlocal skill
        if "validation_skill" not in epoch:
            raise ConfigError(
                "trials cannot be scored, because no held-out window has a value: raise training.validation"
            )
        skill, number = epoch["validation_skill"], int(epoch["epoch"])
        run.log_epoch({**epoch, "epoch": number + done})
        # Optuna compares trials at equal epoch numbers, but the epoch numbers begin again with each fold.
        # So report only the epochs of the first fold.
        if drawn is not None and not done:
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
