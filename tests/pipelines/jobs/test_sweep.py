"""Tests of sweeps: a sweep trains models with different settings, and registers the best model.

An interrupted sweep keeps the results of the trials that had finished.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import polars as pl
import pytest

from forecaster.config import TrainingConfig
from forecaster.registry.registry import Registry
from forecaster.registry.runs_view import VARIED
from forecaster.time.windows import Windows
from forecaster.training.train import Trained, train
from pipelines.jobs import sweep
from pipelines.jobs.progress import Progress
from pipelines.jobs.sweep import SweepOutcome, run_sweep
from pipelines.jobs.trials import Trial, best_of, draw_settings, folds
from pipelines.settings.config import JobConfig
from schemas.errors import ConfigError, DataError
from tests.fleets import START
from tests.pipelines.jobs.test_train import job


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def swept(folder: Path) -> SweepOutcome:
    return run_sweep(job(folder), "waves", 4)


def child_runs(config: JobConfig, parent: str) -> list[Any]:
    import mlflow

    client = mlflow.MlflowClient(config.mlflow.tracking_uri.get_secret_value())
    experiment = client.get_experiment_by_name(config.mlflow.experiment)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    return sorted(found, key=lambda run: str(run.info.run_name))


def trials_of(folder: Path, run_id: str) -> pl.DataFrame:
    table = json.loads((folder / "mlartifacts" / run_id / "artifacts" / "sweep" / "trials.json").read_text())
    return pl.DataFrame(table["data"], schema=table["columns"], orient="row", infer_schema_length=None)


def test_a_sweep_logs_a_child_run_for_every_trial(folder: Path, swept: SweepOutcome) -> None:
    children = child_runs(job(folder), swept.trained.run_id)
    assert [run.info.run_name for run in children] == ["waves-1", "waves-2", "waves-3", "waves-4"]
    assert [run.info.run_id for run in children] == [trial.run_id for trial in swept.trials]
    for run, trial in zip(children, swept.trials, strict=True):
        assert run.data.metrics["sweep/skill_validation"] == trial.skill
        for name, value in trial.settings.items():
            assert run.data.params[name] == str(value)
    assert sorted(trials_of(folder, swept.trained.run_id)["trial"].to_list()) == [1, 2, 3, 4]


def test_a_sweep_first_tries_the_job_settings_and_registers_the_best_model(
    folder: Path, swept: SweepOutcome
) -> None:
    assert swept.trials[0].settings == {}
    assert swept.best.skill == max(t.skill or 0.0 for t in swept.trials if t.ended == "finished")
    chosen = job(folder).with_settings(swept.best.settings)
    made = Registry(chosen.mlflow.tracking_uri).load(str(swept.trained.version))
    assert made.network_config == chosen.network
    table = trials_of(folder, swept.trained.run_id)
    assert table["trial"][0] == swept.best.number
    assert table.filter(pl.col("trial") == 1)["network.hidden"].item() == job(folder).network.hidden
    assert swept.as_json()["best"] == swept.best.number


def test_the_seed_determines_the_settings_of_the_trials(
    folder: Path, swept: SweepOutcome, tmp_path: Path
) -> None:
    again, other = (run_sweep(job(tmp_path, seed=seed), "waves", 2) for seed in (0, 1))
    assert [t.settings for t in again.trials] == [t.settings for t in swept.trials[:2]]
    assert [t.skill for t in again.trials] == [t.skill for t in swept.trials[:2]]
    assert other.trials[1].settings != again.trials[1].settings


def test_sweep_trial_settings_are_valid_job_file_settings() -> None:
    drawn = draw_settings(optuna.create_study().ask())
    config = JobConfig().with_settings(drawn)
    assert drawn.items() <= config.flat().items()
    assert JobConfig.model_validate(config.model_dump()) == config


def test_the_mlflow_trial_chart_shows_exactly_the_varied_settings() -> None:
    assert set(draw_settings(optuna.create_study().ask())) == set(VARIED)


def test_folds_of_a_sweep_hold_out_separate_windows() -> None:
    windows = Windows(("a",), START, np.arange(100.0)[:, None])
    found = list(folds(windows, TrainingConfig(validation=0.2, backtest=0.1)))
    parts = [part.values[:, 0] for part, _ in found]
    assert [part[-1] for part in parts] == [89, 69]
    for part, training in found:
        assert training.validation * len(part.values) == pytest.approx(20)
        assert (training.backtest, training.refit) == (0.0, False)


def test_a_trial_that_optuna_prunes_is_reported_as_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: trial.number > 0)
    outcome = run_sweep(job(tmp_path), "waves", 3)
    assert [trial.ended for trial in outcome.trials] == ["finished", "finished", "pruned"]
    assert outcome.best.number in (1, 2)
    tags = [run.data.tags["statecast.trial"] for run in child_runs(job(tmp_path), outcome.trained.run_id)]
    assert tags == ["finished", "finished", "pruned"]


def train_failing(on: int, error: BaseException) -> Any:
    """Return a replacement of `train` that raises ``error`` in its call number ``on`` only."""
    calls = [0]

    def train_or_fail(*given: Any, **named: Any) -> Trained:
        calls[0] += 1
        if calls[0] == on:
            raise error
        return train(*given, **named)

    return train_or_fail


def test_a_sweep_continues_after_a_failed_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "train", train_failing(3, DataError("the loss is not a number")))
    outcome = run_sweep(job(tmp_path), "waves", 3)
    assert [trial.ended for trial in outcome.trials] == ["finished", "failed", "finished"]
    assert outcome.trials[1].skill is None
    status = [run.info.status for run in child_runs(job(tmp_path), outcome.trained.run_id)]
    assert status == ["FINISHED", "FAILED", "FINISHED"]


def test_an_interrupted_sweep_logs_its_finished_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "train", train_failing(5, KeyboardInterrupt()))
    ended: list[Trial] = []
    with pytest.raises(KeyboardInterrupt):
        run_sweep(job(tmp_path), "waves", 9, Progress(trial=ended.append))
    assert len(ended) == 2
    assert best_of(ended) is not None
    runs = Registry(job(tmp_path).mlflow.tracking_uri).runs()
    assert runs.sort("name")["status"].to_list() == ["KILLED", "FINISHED", "FINISHED", "KILLED"]
    parent = runs.row(by_predicate=pl.col("name") == "waves", named=True)["run_id"]
    assert sorted(trials_of(tmp_path, parent)["trial"].to_list()) == [1, 2]


def test_a_sweep_of_one_failing_trial_raises_that_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "train", train_failing(1, DataError("the loss is not a number")))
    with pytest.raises(DataError, match="the loss is not a number"):
        run_sweep(job(tmp_path), "waves", 1)


def test_a_sweep_without_validation_windows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.validation"):
        run_sweep(job(tmp_path, validation=0.0), "waves", 2)
