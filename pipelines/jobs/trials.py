"""Draw the settings of a sweep's trials, split the data to score them, and list the trials in a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import optuna
import polars as pl

from forecaster.config import TrainingConfig
from forecaster.time.windows import Windows
from forecaster.training.train import held_out_from
from pipelines.settings.config import JobConfig

_FOLDS = 2
# Trial 1 has the job's settings. The next trials get random settings, until Optuna's estimator has enough
# results to choose them.
_RANDOM_TRIALS = 5

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep: its settings, and the skill of the models that were trained with them.

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


def best_of(trials: list[Trial]) -> Trial | None:
    """Return the finished trial with the highest skill; None if no trial has finished."""
    finished = [trial for trial in trials if trial.ended == "finished"]
    return max(finished, key=lambda trial: trial.skill or 0.0, default=None)


def trials_frame(trials: list[Trial], config: JobConfig) -> pl.DataFrame:
    """Return a frame with a row for each trial: ``trial, ended, skill``, settings, ``seconds, run_id``.

    Finished trials come first, then pruned trials, then failed trials; within each of these groups, the best
    skill comes first. The columns of settings are the settings that any trial has changed; ``config`` has the
    values of the first trial.
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


def draw_settings(trial: optuna.Trial) -> dict[str, Any]:
    """Let Optuna draw the settings of a trial, and return them by dotted name."""
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
    """Yield the windows and the training settings of each fold of the rolling validation.

    The last windows of each fold are held out to score its epochs. The first fold ends at the first window of
    the backtest. Each later fold ends at the first held-out window of the previous fold.
    """
    validated_from, backtest_from = held_out_from(len(windows.values), training)
    held_out = backtest_from - validated_from
    for number in range(_FOLDS):
        rows = backtest_from - number * held_out
        if number and rows <= 2 * held_out:
            return  # the fold would train on no more windows than it scores, too few for a meaningful score
        changes = {"validation": held_out / rows, "backtest": 0.0, "refit": False}
        yield windows.rows(0, rows), training.model_copy(update=changes)


def new_study(config: JobConfig, trials: int) -> optuna.Study:
    """Return an Optuna study that draws settings and prunes trials by the median."""
    sampler = optuna.samplers.TPESampler(seed=config.training.seed, n_startup_trials=_RANDOM_TRIALS)
    warm = config.training.epochs // 3
    pruner = optuna.pruners.MedianPruner(
        n_startup_trials=min(_RANDOM_TRIALS, trials // 3), n_warmup_steps=warm
    )
    return optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
