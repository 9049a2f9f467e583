"""Tests of the MLflow server of the folder ``mlflow/`` with PostgreSQL, logins, kills, backups and S3.

docs/team-server.md has the commands for users.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from mlflow import MlflowClient

from schemas.errors import EngineError
from tests.server.postgres import Postgres, running_postgres
from tests.server.team_server import TeamServer
from tests.stores import s3_server

LIMIT_S = 240.0


def ended(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """Wait until a command ends, assert its exit code, and return its stdout and its stderr."""
    with process:
        try:
            out, errors = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    assert process.returncode == code, errors
    return out, errors


def called(server: TeamServer, line: str, desk: Path, user: str) -> dict[str, Any]:
    """Run a command with ``--json`` as ``user``, check that it prints no password, and return its object."""
    out, errors = ended(server.start_command(f"{line} --json", desk, **server.login(user)))
    for password in server.passwords.values():
        assert password not in out + errors
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def trained(server: TeamServer, desk: Path, name: str, user: str = "ana") -> None:
    """Train a version of the registered model ``name`` as ``user``."""
    called(server, f"train rows.csv -c job.toml --register {name}", desk, user)


@pytest.fixture
def client(server: TeamServer, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """Return MLflow's client, logged in as the administrator."""
    for name, value in server.login("admin").items():
        monkeypatch.setenv(name, value)
    return MlflowClient(server.uri, server.uri)


def files_with(folder: Path, text: str) -> list[Path]:
    """Return the files below ``folder`` that contain ``text``."""
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


# --- logins


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("MLFLOW_AUTH_ADMIN_PASSWORD", "ships no default admin password"),
        ("MLFLOW_FLASK_SERVER_SECRET_KEY", "secret key"),
    ],
)
def test_the_mlflow_server_needs_its_secrets_to_start(missing: str, reason: str, tmp_path: Path) -> None:
    with running_postgres() as empty:
        server = TeamServer(tmp_path / "server", empty.environment(), without=(missing,))
        try:
            with pytest.raises(EngineError, match="mlflow did not start"):
                server.start()
        finally:
            server.stop()
    assert reason in server.log
    assert missing in server.log


@pytest.mark.parametrize("command", ["train rows.csv -c job.toml", "promote weather/1", "models", "runs"])
def test_a_wrong_password_is_refused_in_one_line(command: str, server: TeamServer, desk: Path) -> None:
    wrong = {"MLFLOW_TRACKING_USERNAME": "ana", "MLFLOW_TRACKING_PASSWORD": "not-the-password"}
    out, errors = ended(server.start_command(command, desk, **wrong), code=4)
    [line] = errors.splitlines()
    assert f"the MLflow server {server.uri} does not accept the login (401)" in line
    assert "MLFLOW_TRACKING_PASSWORD" in line
    assert "not-the-password" not in out + errors


def test_a_login_is_read_from_the_mlflow_credentials_file(server: TeamServer, desk: Path) -> None:
    home = desk / "home"
    (home / ".mlflow").mkdir(parents=True)
    (home / ".mlflow" / "credentials").write_text(
        f"[mlflow]\nmlflow_tracking_username = ana\nmlflow_tracking_password = {server.passwords['ana']}\n"
    )
    out, errors = ended(server.start_command("runs --json", desk, HOME=str(home)))
    assert server.passwords["ana"] not in out + errors


def test_users_cannot_delete_models_of_others_or_create_users(
    server: TeamServer, desk: Path, client: MlflowClient
) -> None:
    trained(server, desk, "owned")
    for path, content in (
        ("registered-models/delete", {"name": "owned"}),
        ("users/create", {"username": "eve", "password": "a-long-password"}),
    ):
        with pytest.raises(HTTPError, match="403"):
            server.post(path, content, "ben")
    assert client.get_model_version("owned", "1").status == "READY"


# --- runs, versions and files


def test_two_users_train_evaluate_and_promote_on_one_server(
    server: TeamServer, desk: Path, client: MlflowClient, postgres: Postgres
) -> None:
    trained(server, desk, "shared")
    trained(server, desk, "shared", user="ben")
    called(server, "promote shared/2 -c job.toml --alias challenger", desk, "ben")
    called(server, "promote shared/2 -c job.toml", desk, "ana")
    assert client.get_model_version_by_alias("shared", "champion").version == "2"
    called(server, "backfill rows.csv -c job.toml --model shared --output past", desk, "ben")
    called(server, "evaluate rows.csv -c job.toml --forecasts past", desk, "ben")
    version = client.get_model_version("shared", "2")
    assert version.run_id is not None
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert "backtest/skill_vs_persistence" in run.data.metrics
    assert list(server.artifacts.rglob("model.safetensors")) or list(server.artifacts.rglob("MLmodel"))
    assert not (desk / "mlruns").exists()
    assert not (desk / "mlartifacts").exists()
    dump = postgres.call("pg_dump", "mlflow")
    for password in server.passwords.values():
        assert password not in dump
        assert password not in server.log
        assert files_with(desk, password) + files_with(server.artifacts, password) == []


# --- kills


def test_sync_uploads_a_training_that_lost_its_mlflow_server(
    server: TeamServer, desk: Path, client: MlflowClient
) -> None:
    line = "train rows.csv -c job.toml --register survivor --epochs 60 --name survivor"
    training = server.start_command(line, desk, **server.login("ana"))
    deadline_s = time.monotonic() + LIMIT_S
    while not (steps := epochs_of(client, "survivor")):
        assert training.poll() is None, training.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.2)
    server.kill()
    assert training.poll() is None
    try:
        out, errors = ended(training, code=4)
    finally:
        server.start()
    assert f"statecast register {desk}/statecast-unsent/" in errors.splitlines()[-1]
    assert server.passwords["ana"] not in out + errors
    assert files_with(desk, server.passwords["ana"]) == []
    called(server, "sync -c job.toml", desk, "ana")
    version = client.get_model_version("survivor", "1")
    assert version.run_id is not None
    assert client.get_run(version.run_id).info.status == "FINISHED"
    assert len(epochs_of(client, "survivor")) > len(steps)
    assert not (desk / "statecast-unsent").exists()


def epochs_of(client: MlflowClient, name: str) -> list[int]:
    """Return the epochs at which the run ``name`` logged a training loss; empty if no run has this name."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = client.search_runs(experiments, f"attributes.run_name = '{name}'")
    if not runs:
        return []
    return [int(point.step) for point in client.get_metric_history(runs[0].info.run_id, "epoch/loss_train")]


# --- backups and S3


def test_a_restored_backup_has_the_model_and_the_logins(
    server: TeamServer, desk: Path, client: MlflowClient, postgres: Postgres
) -> None:
    trained(server, desk, "kept")
    before = client.get_model_version("kept", "1")
    postgres.call("pg_dump", "--format=custom", f"--file={desk}/mlflow.dump", "mlflow")
    with running_postgres() as empty:
        restored = TeamServer(desk / "restored", empty.environment())
        restored.passwords |= server.passwords
        shutil.copytree(server.artifacts, restored.artifacts)
        empty.call("pg_restore", "--dbname=mlflow", "--exit-on-error", "--no-owner", f"{desk}/mlflow.dump")
        restored.start()
        try:
            called(restored, "backfill rows.csv -c job.toml --model kept/1 --output past", desk, "ben")
            after = MlflowClient(restored.uri, restored.uri).get_model_version("kept", "1")
        finally:
            restored.stop()
    assert after.run_id == before.run_id


def test_clients_use_models_in_a_bucket_without_bucket_credentials(
    server: TeamServer, desk: Path, postgres: Postgres
) -> None:
    with s3_server() as bucket:
        place = {"MLFLOW_ARTIFACTS_DESTINATION": f"{bucket}/models"}
        with_bucket = TeamServer(desk / "server", {**postgres.environment(), **place})
        with_bucket.passwords = server.passwords
        with_bucket.start()
        try:
            trained(with_bucket, desk, "in-a-bucket")
            called(
                with_bucket, "backfill rows.csv -c job.toml --model in-a-bucket/1 --output past", desk, "ben"
            )
        finally:
            with_bucket.stop()
        assert any(path.name == "MLmodel" for path in (bucket / "models").below())
    assert not with_bucket.artifacts.exists()
