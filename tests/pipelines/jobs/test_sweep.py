"""A search for settings: what is tried, on what, and what is left of it however it ends."""

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
from forecaster.time.windows import Windows
from forecaster.training.train import Trained, train
from pipelines.jobs import sweep
from pipelines.jobs.sweep import (
    Progress,
    SweepOutcome,
    Trial,
    best_of,
    folds,
    run_sweep,
    suggested,
    with_settings,
)
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


def test_a_sweep_is_a_parent_run_with_a_child_for_every_trial(folder: Path, swept: SweepOutcome) -> None:
    children = child_runs(job(folder), swept.trained.run_id)
    assert [run.info.run_name for run in children] == ["waves-1", "waves-2", "waves-3", "waves-4"]
    assert [run.info.run_id for run in children] == [trial.run_id for trial in swept.trials]
    for run, trial in zip(children, swept.trials, strict=True):
        assert run.data.metrics["rolling_validation_skill"] == trial.skill
        for name, value in trial.settings.items():
            assert run.data.params[name] == str(value)
    assert sorted(trials_of(folder, swept.trained.run_id)["trial"].to_list()) == [1, 2, 3, 4]


def test_the_first_trial_is_the_job_as_it_stands_and_the_best_is_what_is_registered(
    folder: Path, swept: SweepOutcome
) -> None:
    assert swept.trials[0].settings == {}
    assert swept.best.skill == max(t.skill or 0.0 for t in swept.trials if t.ended == "finished")
    chosen = with_settings(job(folder), swept.best.settings)
    made = Registry(chosen.mlflow.tracking_uri).load(str(swept.trained.version))
    assert made.network_config == chosen.network
    assert trials_of(folder, swept.trained.run_id)["trial"][0] == swept.best.number
    assert swept.as_json()["best"] == swept.best.number


def test_a_sweep_of_one_seed_tries_the_same_and_of_another_something_else(
    folder: Path, swept: SweepOutcome, tmp_path: Path
) -> None:
    again, other = (run_sweep(job(tmp_path, seed=seed), "waves", 3) for seed in (0, 1))
    assert [t.settings for t in again.trials] == [t.settings for t in swept.trials[:3]]
    assert [t.skill for t in again.trials] == [t.skill for t in swept.trials[:3]]
    assert other.trials[1].settings != again.trials[1].settings


def test_every_setting_that_is_searched_is_one_of_the_job_file() -> None:
    drawn = suggested(optuna.create_study().ask())
    config = with_settings(JobConfig(), drawn)
    assert drawn.items() <= config.flat().items()
    assert JobConfig.model_validate(config.model_dump()) == config


def test_folds_end_before_the_backtest_and_each_holds_out_windows_of_its_own() -> None:
    windows = Windows(("a",), START, np.arange(100.0)[:, None])
    found = list(folds(windows, TrainingConfig(validation=0.2, backtest=0.1)))
    parts = [part.values[:, 0] for part, _ in found]
    assert [part[-1] for part in parts] == [89, 69]
    for part, training in found:
        assert training.validation * len(part.values) == pytest.approx(20)
        assert (training.backtest, training.refit) == (0.0, False)


def test_a_trial_that_does_worse_than_the_others_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: trial.number > 0)
    outcome = run_sweep(job(tmp_path), "waves", 3)
    assert [trial.ended for trial in outcome.trials] == ["finished", "finished", "pruned"]
    assert outcome.best.number in (1, 2)
    assert len(child_runs(job(tmp_path), outcome.trained.run_id)) == 3


def failing(on: int, error: BaseException) -> Any:
    """`train`, but for one call."""
    calls = [0]

    def trained(*given: Any, **named: Any) -> Trained:
        calls[0] += 1
        if calls[0] == on:
            raise error
        return train(*given, **named)

    return trained


def test_a_trial_whose_loss_runs_away_is_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "train", failing(3, DataError("its loss is no number")))
    outcome = run_sweep(job(tmp_path), "waves", 3)
    assert [trial.ended for trial in outcome.trials] == ["finished", "failed", "finished"]
    assert outcome.trials[1].skill is None
    status = [run.info.status for run in child_runs(job(tmp_path), outcome.trained.run_id)]
    assert status == ["FINISHED", "FAILED", "FINISHED"]


def test_an_interrupted_sweep_keeps_the_trials_that_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "train", failing(5, KeyboardInterrupt()))
    ended: list[Trial] = []
    with pytest.raises(KeyboardInterrupt):
        run_sweep(job(tmp_path), "waves", 9, Progress(trial=ended.append))
    assert len(ended) == 2
    assert best_of(ended) is not None
    runs = Registry(job(tmp_path).mlflow.tracking_uri).runs()
    assert runs.sort("name")["status"].to_list() == ["KILLED", "FINISHED", "FINISHED", "KILLED"]
    parent = runs.row(by_predicate=pl.col("name") == "waves", named=True)["run_id"]
    assert sorted(trials_of(tmp_path, parent)["trial"].to_list()) == [1, 2]


def test_a_sweep_without_a_trial_that_finished_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "train", failing(1, DataError("its loss is no number")))
    with pytest.raises(DataError, match="its loss is no number"):
        run_sweep(job(tmp_path), "waves", 1)


def test_a_sweep_needs_windows_to_judge_by(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.validation"):
        run_sweep(job(tmp_path, validation=0.0), "waves", 2)
