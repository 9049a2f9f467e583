"""Tests of a full, damaged or read-only outbox, of the order of sending, and of large or failed requests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from forecaster.registry import outbox
from forecaster.registry.outbox import Outbox, unsent
from forecaster.registry.registry import Registry
from forecaster.registry.versions import now_ms
from schemas.errors import ModelError
from tests.forecaster.registry.models import forecaster, history


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("store")
    return Registry(f"sqlite:///{folder}/mlflow.db", "tests", unsent=folder / "unsent")


def client(registry: Registry) -> MlflowClient:
    return MlflowClient(registry.tracking_uri, registry_uri=registry.tracking_uri)


def add_file(box: Outbox, name: str, size: int) -> Path:
    """Write a file of ``size`` bytes into an outbox, add its entry, and return its path."""
    entry = {"kind": "file", "path": name, "name": name}
    file = box.file(entry)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(bytes(size))
    box.add(entry)
    return file


def test_a_full_outbox_drops_further_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_MOST_BYTES", 100)
    box = Outbox(tmp_path, {"name": "large"})
    kept = [add_file(box, "a.csv", 60), add_file(box, "b.csv", 40)]
    left_out = add_file(box, "c.csv", 1)
    assert [entry["path"] for entry in box.entries] == ["a.csv", "b.csv"]
    assert box.dropped == 1
    assert all(file.exists() for file in kept)
    assert not left_out.exists()


def test_the_outbox_metric_limit_counts_only_metric_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_MOST_POINTS", 2)
    box = Outbox(tmp_path, {"name": "few"})
    box.add({"kind": "tags", "values": {"a": "b"}})
    for step in range(3):
        box.add({"kind": "metrics", "points": [["a", 1.0, 0, step]]})
    assert [entry["kind"] for entry in box.entries] == ["tags", "metrics", "metrics"]
    assert box.dropped == 1


def test_an_outbox_is_a_temporary_folder_if_its_path_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("forecaster.durable.make_folder", refuse)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    box = Outbox(Path("/nowhere"), {"name": "run"})
    assert box.make_folder().parent == tmp_path
    assert box.make_folder().is_dir()


@pytest.mark.parametrize("text", ["{", "[]", "5", '{"run": {}}'])
def test_a_damaged_outbox_is_refused_with_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ModelError, match="holds neither an unsent run nor a saved model") as error:
        Outbox.read(tmp_path)
    assert "\n" not in str(error.value)


def test_unsent_lists_outboxes_from_oldest_to_newest(tmp_path: Path) -> None:
    for name, age in (("a", 2), ("b", 3), ("c", 1)):
        box = Outbox(tmp_path, {"name": name})
        box.add({"kind": "tags", "values": {}})
        box.save()
        assert box.folder is not None
        os.utime(box.folder / "run.json", (1e9 - age, 1e9 - age))
    assert [folder.name[0] for folder in unsent(tmp_path)] == ["b", "a", "c"]


def test_more_metrics_and_parameters_than_one_request_holds_are_sent(store: Registry) -> None:
    with store.start_run("many", {f"p{number}": str(number) for number in range(120)}) as run:
        run.log_metrics({f"m{number}": float(number) for number in range(1100)})
    data = client(store).get_run(run.run_id).data
    assert {name: value for name, value in data.metrics.items() if name.startswith("m")} == {
        f"m{number}": float(number) for number in range(1100)
    }
    assert len([name for name in data.params if name.startswith("p")]) == 120


def test_a_model_whose_files_cannot_be_stored_is_marked_as_failed(
    store: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **named: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, store.start_run("full", {}) as run:
        patched.setattr(MlflowClient, "log_model_artifacts", full)
        assert run.log_model(forecaster(), "full", history(3)) is None
    experiments = [run._outbox.run["experiment_id"]]

    def states() -> set[str]:
        return {str(model.status) for model in client(store).search_logged_models(experiments)}

    assert states() == {"FAILED"}
    [folder] = unsent(Path(store._unsent))
    assert str(store.send(folder, "unused").version) == "full/1"
    assert states() == {"FAILED", "READY"}


def test_metrics_of_a_model_wait_until_the_model_is_stored(
    store: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **named: Any) -> Any:
        raise OSError(28, "No space left on device")

    began_ms = now_ms()
    with monkeypatch.context() as patched, store.start_run("waiting", {}) as run:
        patched.setattr(MlflowClient, "log_model_artifacts", full)
        run.log_model(forecaster(), "waiting", history(3))
        run.log_points({"of_model": 1.0}, 7, of_model=True)
        run.log_metrics({"of_run": 2.0})
    logged_ms = now_ms()
    assert client(store).get_run(run.run_id).data.metrics == {"of_run": 2.0}
    [folder] = unsent(Path(store._unsent))
    store.send(folder, "unused")
    entity = client(store).get_run(run.run_id)
    assert entity.data.metrics == {"of_run": 2.0, "of_model": 1.0}
    assert entity.outputs is not None
    with store.reopen(run.run_id) as again:
        again.log_metrics({"of_run_later": 3.0})
    model = client(store).get_logged_model(entity.outputs.model_outputs[0].model_id)
    assert [metric.key for metric in model.metrics or []] == ["of_model"]
    [point] = client(store).get_metric_history(run.run_id, "of_model")
    assert point.step == 7
    assert began_ms <= point.timestamp <= logged_ms


def test_a_metric_is_sent_again_after_a_server_error(
    store: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **named: Any) -> Any:
        raise MlflowException("database is locked")

    with store.start_run("locked", {}) as run:
        with monkeypatch.context() as patched:
            patched.setattr(MlflowClient, "log_batch", fail)
            run.log_metrics({"a": 1.0})
        store._connection.mark_present()
        run.log_metrics({"b": 2.0})
    assert client(store).get_run(run.run_id).data.metrics == {"a": 1.0, "b": 2.0}
    assert run.notices == []
