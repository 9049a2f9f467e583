"""Tests of MLflow store addresses, of model names such as ``weather@champion``, and of the MLflow UI."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import pytest

from forecaster.registry.references import Reference, check_alias, check_model_name
from forecaster.registry.store import Store
from forecaster.registry.ui import ui_command, ui_environment
from schemas.errors import ModelError


def test_unusable_mlflow_store_addresses_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.db"
    text.write_text("series_id,timestamp,value\n" * 10)
    with pytest.raises(ModelError, match="not an SQLite database"):
        Store.parse(f"sqlite:///{text}").check()
    with pytest.raises(ModelError, match="mkdir -p"):
        Store.parse(f"sqlite:///{tmp_path}/missing/mlflow.db").check()
    with pytest.raises(ModelError, match="is a folder"):
        Store.parse(f"sqlite:///{tmp_path}").check()
    for uri in ("mlruns", "ftp://host/x", "sqlite:///", "sqlite:///:memory:", "http://"):
        with pytest.raises(ModelError, match="write "):
            Store.parse(uri)

    # Simulate a refused write, because a test that runs as root could write to any folder.
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(ModelError, match="cannot be written"):
        Store.parse(f"sqlite:///{tmp_path}/mlflow.db").check()


def test_an_unreachable_mlflow_server_raises_model_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # a bound port without a listener refuses connections
        port = taken.getsockname()[1]
        with pytest.raises(ModelError, match=f"no MLflow server answers at http://127.0.0.1:{port}"):
            Store.parse(f"http://127.0.0.1:{port}/").check()


def test_model_references_are_parsed_into_their_parts() -> None:
    assert Reference.parse("weather") == Reference("weather", name="weather", alias="champion")
    assert Reference.parse("models:/my model/12").version == 12
    assert Reference.parse("weather@next").alias == "next"
    assert Reference.parse("a" * 32).run_id == "a" * 32
    assert Reference.parse("runs:/" + "a" * 32).run_id == "a" * 32


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "it's", "a@b", "0" * 32])
def test_unusable_model_names_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="cannot name a model"):
        check_model_name(name)


def test_aliases_that_mlflow_refuses_are_refused() -> None:
    check_alias("next-2")
    for alias in ("latest", "V3", "a b", "", "v1.2"):
        with pytest.raises(ModelError, match="cannot be an alias"):
            check_alias(alias)


def test_mlflow_ui_command_binds_loopback_and_contains_no_secret(tmp_path: Path) -> None:
    command = ui_command(f"sqlite:///{tmp_path}/mlflow.db", port=5055)
    assert command[1:4] == ["-m", "mlflow", "server"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5055"
    assert command[command.index("--default-artifact-root") + 1] == (tmp_path / "mlartifacts").as_uri()
    environment = ui_environment(f"sqlite:///{tmp_path}/mlflow.db", "postgresql://me:secret@db/models")
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert environment["MLFLOW_REGISTRY_STORE_URI"] == "postgresql://me:secret@db/models"
    assert not any("secret" in word for word in ui_command("postgresql://me:secret@db/runs"))
    with pytest.raises(ModelError, match="is a server already"):
        ui_command("http://127.0.0.1:5000")
