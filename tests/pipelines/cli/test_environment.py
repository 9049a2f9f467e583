"""Tests that the environment variables of MLflow select the store, the experiment and the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from forecaster.registry.registry import Registry
from pipelines.cli.app import run
from pipelines.cli.settings import ENVIRONMENT, load_settings
from pipelines.jobs.registry import open_registry
from schemas.errors import ModelError
from tests.forecaster.registry.models import forecaster, history
from tests.pipelines.cli.conftest import write_series
from tests.servers import basic, mlflow_server

JOB = """
[mlflow]
tracking_uri = "sqlite:///file.db"
registry_uri = "sqlite:///file-models.db"
experiment = "file"
experiment_id = "7"
run_id = "file"
system_metrics = false
"""


@pytest.fixture(autouse=True)
def _without_mlflow_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ENVIRONMENT.values():
        monkeypatch.delenv(name, raising=False)


def settings_of(job: Path | None = None, *settings: str, **named: str) -> dict[str, object]:
    mlflow = load_settings(job, list(settings), **named).mlflow
    return {
        "mlflow.tracking_uri": mlflow.tracking_uri.get_secret_value(),
        "mlflow.registry_uri": mlflow.registry_uri.get_secret_value(),
        "mlflow.experiment": mlflow.experiment,
        "mlflow.experiment_id": mlflow.experiment_id,
        "mlflow.run_id": mlflow.run_id,
        "mlflow.system_metrics": mlflow.system_metrics,
    }


def test_options_override_the_environment_which_overrides_the_job_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tmp_path / "job.toml"
    job.write_text(JOB)
    default, file = settings_of(), settings_of(job)
    assert default["mlflow.tracking_uri"] == "sqlite:///mlflow.db"
    assert file["mlflow.tracking_uri"] == "sqlite:///file.db"
    environment = {key: True if key == "mlflow.system_metrics" else f"sqlite:///{key}" for key in ENVIRONMENT}
    for key, name in ENVIRONMENT.items():
        monkeypatch.setenv(name, str(environment[key]))
    assert settings_of(job) == settings_of() == environment
    assert settings_of(job, "mlflow.run_id=x")["mlflow.run_id"] == "x"
    named = settings_of(job, mlflow__tracking_uri="sqlite:///option.db")
    assert named == environment | {"mlflow.tracking_uri": "sqlite:///option.db"}
    for name in ENVIRONMENT.values():
        monkeypatch.setenv(name, "")
    assert settings_of(job) == file


def test_an_experiment_name_overrides_ids_from_lower_priority_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tmp_path / "job.toml"
    job.write_text(JOB)

    def experiment(*settings: str) -> tuple[object, object]:
        found = settings_of(job, *settings)
        return found["mlflow.experiment"], found["mlflow.experiment_id"]

    assert experiment() == ("file", "7")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "around")
    assert experiment() == ("around", "")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "8")
    assert experiment() == ("around", "8")
    assert experiment("mlflow.experiment=typed") == ("typed", "")
    assert experiment("mlflow.experiment_id=9") == ("around", "9")


def test_mlflow_experiment_id_selects_the_experiment_of_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with Registry(uri, "theirs").start_run("one", {}):
        pass
    client = mlflow.MlflowClient(uri, registry_uri=uri)
    (theirs,) = (one.experiment_id for one in client.search_experiments() if one.name == "theirs")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", theirs)
    registry = open_registry(load_settings(None, [f"mlflow.tracking_uri={uri}"]).mlflow)
    with registry.start_run("two", {}):
        pass
    assert sorted(registry.runs()["name"]) == ["one", "two"]
    assert len(client.search_runs([theirs])) == 2
    assert client.get_experiment_by_name("statecast") is None

    write_series(tmp_path / "rows.csv", 120)
    for wrong in ("99", "weather"):
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", wrong)
        assert run(["train", "rows.csv", "--hidden", "4", "--horizon", "2", "--epochs", "1"]) == 4
        line = f"no experiment has the id {wrong} in {uri}: set MLFLOW_EXPERIMENT_ID"
        assert line in capsys.readouterr().err
    client.delete_experiment(theirs)
    with pytest.raises(ModelError, match="theirs was deleted in"), registry.start_run("three", {}):
        pass


def test_the_error_for_an_invalid_environment_variable_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "maybe")
    assert run(["promote", "weather/1"]) == 2
    assert 'MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING "maybe": must be true or false' in capsys.readouterr().err


def champion_versions(uri: str) -> list[str]:
    versions = Registry(uri).versions("weather")
    return [str(row["version"]) for row in versions.to_dicts() if "champion" in row["aliases"]]


def test_promote_uses_the_store_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local, other = f"sqlite:///{tmp_path}/mlflow.db", f"sqlite:///{tmp_path}/other.db"
    for uri in (local, other):
        for _ in range(2):  # each run registers one version
            with Registry(uri).start_run("one", {}) as made:
                made.log_model(forecaster(), "weather", history(3))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    assert run(["promote", "weather/2"]) == 0
    assert f"MLflow store {other} (from MLFLOW_TRACKING_URI)" in capsys.readouterr().out
    assert (champion_versions(local), champion_versions(other)) == ([], ["2"])
    assert run(["promote", "weather/2", "--tracking-uri", "sqlite:///mlflow.db"]) == 0
    assert f"MLflow store {local}\n" in capsys.readouterr().out
    assert champion_versions(local) == ["2"]


def test_training_logs_into_the_run_named_by_mlflow_run_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    runs, models = f"sqlite:///{tmp_path}/runs.db", f"sqlite:///{tmp_path}/models.db"
    first = Registry(runs, "theirs")
    with first.start_run(
        "made by mlflow run", {"config": "job.toml"}, {"mlflow.source.name": "MLproject"}
    ) as made:
        pass
    for name, value in {
        "MLFLOW_TRACKING_URI": runs,
        "MLFLOW_REGISTRY_URI": models,
        "MLFLOW_RUN_ID": made.run_id,
        "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true",
        "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.05",
        "MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING": "1",
    }.items():
        monkeypatch.setenv(name, value)
    write_series(tmp_path / "rows.csv", 120)
    tiny = "--hidden 4 --horizon 2 --epochs 1 -s network.layers=1 -s training.refit=false"
    assert run(f"train rows.csv {tiny} --register tiny --name ours".split()) == 0
    client = mlflow.MlflowClient(runs, models)
    [found] = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert (found.info.run_id, found.info.run_name, found.info.status) == (made.run_id, "ours", "FINISHED")
    assert found.data.tags["mlflow.source.name"] == "MLproject"
    assert {"config", "network.hidden"} <= set(found.data.params)
    assert any(name.startswith("system/") for name in found.data.metrics)
    assert client.get_model_version("tiny", "1").run_id == made.run_id
    assert mlflow.MlflowClient(runs, runs).search_registered_models() == []
    assert Registry(runs, registry_uri=models).load("tiny/1").network_config.hidden == 4

    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    assert run(f"train rows.csv {tiny} --register tiny".split()) == 4


def test_the_login_in_the_environment_reaches_the_mlflow_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server", lambda login: login in (basic("me:pw"), "Bearer tok")) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{server.address}")
        assert run(["promote", "weather/1"]) == 4
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pw")
        with Registry(f"http://{server.address}").start_run("one", {}) as made:
            made.log_model(forecaster(), "weather", history(3))
        assert run(["promote", "weather/1"]) == 0
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
        monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok")
        assert run(["promote", "weather/1"]) == 0
        assert server.logins[0] is None
        assert server.logins[-1] == "Bearer tok"
