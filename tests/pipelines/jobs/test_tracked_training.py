"""Tests that a training logs settings, scores and software to MLflow, and links its data set and model."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

import polars as pl
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from forecaster.registry import provenance
from forecaster.registry.new_store import make_store
from forecaster.registry.store import Store
from pipelines.jobs.train import TrainOutcome, run_training
from pipelines.settings.config import JobConfig
from tests.pipelines.jobs.test_train import HOURS, job


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracked")


@pytest.fixture(scope="module")
def outcome(folder: Path) -> TrainOutcome:
    return run_training(job(folder), "waves")


@pytest.fixture
def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/runs.db", f"sqlite:///{folder}/runs.db")


@pytest.fixture
def run(client: MlflowClient, outcome: TrainOutcome) -> Run:
    return client.get_run(outcome.run_id)


def table_of(folder: Path, run_id: str, path: str) -> pl.DataFrame:
    """Return a table that an MLflow run has logged as a file."""
    found = json.loads((folder / "mlartifacts" / run_id / "artifacts" / path).read_text())
    return pl.DataFrame(found["data"], schema=found["columns"], orient="row", infer_schema_length=None)


def test_a_training_run_logs_settings_without_the_thread_count(folder: Path, run: Run) -> None:
    sections = {key.partition(".")[0] for key in run.data.params}
    assert sections <= {"windows", "network", "online", "training", "data"}
    assert run.data.params["network.hidden"] == "4"
    assert "training.threads" not in run.data.params


def test_a_logged_job_file_keeps_settings_without_mlflow_address(folder: Path, run: Run) -> None:
    text = (folder / "mlartifacts" / run.info.run_id / "artifacts" / "job.toml").read_text()
    again = JobConfig.model_validate(tomllib.loads(text))
    own = job(folder)
    for section in ("data", "windows", "network", "online", "training", "output"):
        assert getattr(again, section) == getattr(own, section)
    assert str(folder / "runs.db") not in text  # the address of a store may contain a password


def test_the_logged_data_set_is_named_by_files_and_dates(folder: Path, run: Run) -> None:
    assert run.inputs is not None
    data = run.inputs.dataset_inputs[0].dataset
    assert data.name == "waves.parquet 2013-01-01 to 2013-01-05"
    profile = json.loads(data.profile or "")
    assert profile["num_rows"] == 4 * HOURS
    assert profile["num_series"] == 4
    assert profile["paths"] == [str(folder / "waves.parquet")]
    assert len(data.digest) == 16


def test_backtest_metrics_have_the_documented_names_and_steps(client: MlflowClient, run: Run) -> None:
    finals = {"mase_h1", "skill_vs_persistence", "skill_vs_seasonal_naive", "wql", "coverage_90", "width_90"}
    for name in finals:
        [point] = client.get_metric_history(run.info.run_id, f"backtest/{name}")
        assert point.step == 0
    for name in ("mase_by_horizon", "mase_by_horizon_persistence", "coverage_by_horizon"):
        points = client.get_metric_history(run.info.run_id, f"backtest/{name}")
        assert [point.step for point in points] == [1, 2, 3]
    assert run.data.metrics["time/train_s"] > 0
    groups = {name.partition("/")[0] for name in run.data.metrics}
    assert groups <= {"epoch", "backtest", "gradient", "time", "system"}


def test_the_logged_skill_is_a_mean_over_fixed_horizons(run: Run, outcome: TrainOutcome) -> None:
    mase = {(row["model"], row["horizon"]): row["mae"] for row in outcome.scores.to_dicts()}
    gains = [1 - mase["lstm", horizon] / mase["persistence", horizon] for horizon in (1, 3)]
    # For every model, the logged skill is the mean of its skill at the horizons 1, 3, 6, 12 and 24.
    # The model forecasts only three windows ahead, so its skill at the horizons 6, 12 and 24 counts as 0.
    assert run.data.metrics["backtest/skill_vs_persistence"] == pytest.approx(sum(gains) / 5)


def test_scores_of_each_series_are_logged_as_a_table(folder: Path, run: Run) -> None:
    table = table_of(folder, run.info.run_id, "backtest/series.json")
    assert sorted(table["series_id"]) == ["s0", "s1", "s2", "s3"]
    assert table["mase"].is_sorted(descending=True)
    assert table["rows"].to_list() == [HOURS] * 4
    ratio = 1 - table["mase"] / table["mase_seasonal_naive"]
    assert table["skill_vs_seasonal_naive"].to_list() == pytest.approx(ratio.to_list())
    shown = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert {"path": "backtest/series.json", "type": "table"} in shown
    pictures = (folder / "mlartifacts" / run.info.run_id / "artifacts" / "plots" / "worst").iterdir()
    assert len(list(pictures)) == 4


def test_a_training_run_links_data_set_model_and_version(
    client: MlflowClient, run: Run, outcome: TrainOutcome
) -> None:
    assert run.outputs is not None
    model = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    assert model.name == "waves-lstm"
    assert model.source_run_id == run.info.run_id
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "waves", "version": "1"}]
    scores = {metric.key: metric for metric in model.metrics or []}
    assert scores["backtest/skill_vs_persistence"].value == pytest.approx(
        run.data.metrics["backtest/skill_vs_persistence"]
    )
    assert run.inputs is not None
    data = run.inputs.dataset_inputs[0].dataset
    assert scores["backtest/wql"].dataset_name == data.name
    assert scores["backtest/wql"].dataset_digest == data.digest
    version = client.get_model_version("waves", "1")
    assert version.tags["statecast.logged_model"] == model.model_id
    assert version.run_id == run.info.run_id
    assert version.description is not None
    for part in (
        "LSTM",
        "4 series from 2013-01-01 to 2013-01-05",
        "against persistence",
        "the first version",
    ):
        assert part in version.description


def test_tags_of_a_run_name_its_machine_and_software(run: Run) -> None:
    for name in ("host", "cores", "threads", "python_version", "torch_version", "statecast_version"):
        assert run.data.tags[f"statecast.{name}"]
    assert run.data.tags["statecast.job"] == "train"


def test_the_commit_of_the_working_folder_is_logged_as_a_tag(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@localhost")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert provenance._git_tags(tmp_path) == {}
    git("init", "-q")
    git("remote", "add", "origin", "https://me:secret@localhost/jobs.git")
    (tmp_path / "job.toml").write_text("a")
    git("add", ".")
    git("commit", "-qm", "first")
    found = provenance._git_tags(tmp_path)
    assert found["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
    assert found["mlflow.source.git.dirty"] == "false"
    assert found["mlflow.source.git.repoURL"] == "https://***@localhost/jobs.git"
    (tmp_path / "job.toml").write_text("b")
    assert provenance._git_tags(tmp_path)["mlflow.source.git.dirty"] == "true"


def test_unusable_training_data_gives_failed_run_in_existing_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.cli.app import run as run_command

    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    assert run_command(["train", "bad.csv"]) == 3
    assert not (tmp_path / "mlflow.db").exists()  # the training failed before it created the MLflow store
    make_store(Store.parse(f"sqlite:///{tmp_path}/mlflow.db"))
    capsys.readouterr()
    assert run_command(["train", "bad.csv"]) == 3
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db", f"sqlite:///{tmp_path}/mlflow.db")
    [found] = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert found.info.status == "FAILED"
    assert found.data.tags["statecast.error"] in capsys.readouterr().err
