"""Tests of errors for unusable MLflow stores: an error names the remedy and contains no password."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from mlflow import MlflowClient

from forecaster.registry.connection import Connection
from forecaster.registry.registry import Registry
from forecaster.registry.store import Store
from schemas.errors import ModelError
from tests.servers import mlflow_server


def refusal(registry: Registry) -> str:
    """Start a run that the store must refuse; return the error, which must be one line without a secret."""
    with pytest.raises(ModelError) as caught, registry.start_run("refused", {}):
        pass
    line = str(caught.value)
    assert "\n" not in line
    assert "secret" not in line
    return line


def test_the_error_for_a_refused_login_names_environment_variables(tmp_path: Path) -> None:
    with mlflow_server(tmp_path, lambda login: False) as server:
        for address in (f"http://{server.address}", f"http://me:secret@{server.address}"):
            line = refusal(Registry(address))
            assert "does not accept the login (401)" in line
            assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in line


@pytest.mark.parametrize("address", ["me:secret@127.0.0.1:5000", "me:secret@host/path", "me@host"])
def test_refusing_an_address_without_scheme_hides_its_login(address: str) -> None:
    with pytest.raises(
        ModelError, match=r"write http://HOST:PORT, and set MLFLOW_TRACKING_USERNAME"
    ) as caught:
        Store.parse(address)
    assert "secret" not in str(caught.value)
    assert "me" not in str(caught.value).partition("@")[0]


@pytest.mark.skipif(importlib.util.find_spec("psycopg") is not None, reason="the driver is installed")
def test_the_error_for_a_missing_driver_names_the_package_to_install() -> None:
    registry = Registry("postgresql://me:secret@127.0.0.1:1/runs", artifacts="/srv/runs")
    assert "pip install 'psycopg[binary]'" in refusal(registry)


def test_the_error_for_a_deleted_experiment_names_the_restore_command(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    registry = Registry(uri, "gone")
    with registry.start_run("first", {}):
        pass
    client = MlflowClient(uri)
    known = client.get_experiment_by_name("gone")
    assert known is not None
    client.delete_experiment(known.experiment_id)
    assert f"mlflow experiments restore --experiment-id {known.experiment_id}" in refusal(registry)
    with pytest.raises(ModelError, match="was deleted"):
        registry.runs()


def test_a_store_in_postgresql_needs_a_setting_for_its_files(tmp_path: Path) -> None:
    """Without mlflow.artifacts, SQLite stores keep files beside the database; PostgreSQL has no default."""
    uri = "postgresql://me:secret@127.0.0.1:1/runs"
    with pytest.raises(ModelError, match=r"set mlflow\.artifacts to a folder") as caught:
        Connection(uri, "", "runs", "", "")._artifact_place()
    assert "secret" not in str(caught.value)
    assert Connection(uri, "", "runs", "", "s3://bucket/runs")._artifact_place() == "s3://bucket/runs"
    assert Connection(uri, "", "runs", "", str(tmp_path))._artifact_place() == tmp_path.as_uri()
    beside = Connection(f"sqlite:///{tmp_path}/a.db", "", "runs", "", "")._artifact_place()
    assert beside == (tmp_path / "mlartifacts").as_uri()
