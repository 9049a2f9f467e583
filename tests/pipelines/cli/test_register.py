"""Tests of ``statecast register`` and ``statecast sync``.

They send saved models, and the entries of runs that an MLflow store has not taken yet.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from forecaster.registry.registry import Registry
from pipelines.cli.app import run
from tests.fleets import forecaster
from tests.forecaster.registry.test_outbox import away


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a temporary folder the working folder, and return the URI of an MLflow store in it."""
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_sync_sends_all_unsent_runs_and_deletes_their_outboxes(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = Registry(uri)
    with registry.start_run("parent", {}) as parent, away(registry, monkeypatch):
        for number in (1, 2):
            with registry.start_run(f"child-{number}", {}, parent=parent) as child:
                child.log_metrics({"sweep/skill_validation": 0.5})
    assert len(list(Path("statecast-unsent").iterdir())) == 2
    assert run(["sync", "--tracking-uri", uri, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unsent"] == []
    assert len(found["sent"]) == 2
    for sent in found["sent"]:
        assert MlflowClient(uri, uri).get_run(sent["run_id"]).info.status == "FINISHED"
    assert not Path("statecast-unsent").exists()
    assert run(["sync", "--tracking-uri", uri]) == 0
    assert "nothing is unsent" in capsys.readouterr().out


def test_register_creates_a_model_version_from_a_saved_model(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    forecaster().save(Path("saved"))
    assert run(["register", "saved", "--register", "weather", "--tracking-uri", uri]) == 0
    assert f"registered weather/1 = {forecaster().version}" in capsys.readouterr().out
    assert Registry(uri).load("weather/1").version == forecaster().version


def test_register_refuses_a_folder_without_run_or_model(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert run(["register", "empty", "--tracking-uri", uri]) == 4
    assert "holds neither an unsent run nor a saved model" in capsys.readouterr().err
