"""Tests of the outbox: the folder with the entries of a run that the MLflow store has not taken yet.

Entries are metrics, files, models and the status of the run. Each is sent once. Their number is limited.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from forecaster.process_start import started_s
from forecaster.registry import outbox
from forecaster.registry.killed_runs import process_tag
from forecaster.registry.outbox import Outbox, unsent
from forecaster.registry.registry import Registry, Run
from schemas.errors import DataError, ModelError
from tests.forecaster.registry.models import forecaster, history


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("store")
    return Registry(f"sqlite:///{folder}/mlflow.db", "tests", unsent=folder / "unsent")


@contextmanager
def away(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make writes to the store and checks of it fail while the block runs, as if the server had died."""

    def fail(*arguments: Any, **named: Any) -> Any:
        raise MlflowException("API request failed with exception connection refused")

    names = ("log_batch", "log_artifact", "create_logged_model", "create_run", "set_terminated", "log_inputs")
    with monkeypatch.context() as patched:
        for name in names:
            patched.setattr(MlflowClient, name, fail)
        patched.setattr(type(registry._connection.runs), "check", fail_check)
        yield
    registry._connection.mark_present()


def fail_check(store: object) -> None:
    raise ModelError("no MLflow server answers")


def client(registry: Registry) -> MlflowClient:
    return MlflowClient(registry.tracking_uri, registry_uri=registry.tracking_uri)


def log_everything(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """Log a run whose store is unreachable after the first epoch; return the run's id and outbox folder."""
    with pytest.raises(ModelError) as caught, registry.start_run("left", {"seed": 0}) as run:  # noqa: PT012
        run.log_epoch({"epoch": 1, "train_loss": 1.0})
        with away(registry, monkeypatch):
            run.log_epoch({"epoch": 2, "train_loss": 0.5})
            run.log_dataset(history(), ["weather.csv"])
            assert run.log_model(forecaster(), "left", history(3)) is None
            run.log_metrics({"backtest/wql": 0.25}, of_model=True)
            run.log_frame(history(3), "scores.json")
            run.registered()
    [folder] = unsent(Path(registry._unsent))
    assert f"statecast register {folder}" in str(caught.value)
    assert "\n" not in str(caught.value)
    return run.run_id, folder


def test_sending_the_outbox_completes_a_run_whose_store_was_unreachable(
    store: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, folder = log_everything(store, monkeypatch)
    assert client(store).get_run(run_id).info.status == "FAILED"
    with away(store, monkeypatch), pytest.raises(ModelError):
        store.send(folder, "unused")  # sending fails at the first entry; all entries must be kept
    sent = store.send(folder, "unused")
    assert sent.run_id == run_id
    assert str(sent.version) == "left/1"
    assert store.load("left/1").version == forecaster().version
    run = client(store).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"epoch/loss_train": 0.5, "backtest/wql": 0.25}
    steps = [point.step for point in client(store).get_metric_history(run_id, "epoch/loss_train")]
    assert steps == [1, 2]
    assert {file.path for file in client(store).list_artifacts(run_id)} == {"scores.json"}
    assert not folder.exists()
    assert not folder.parent.exists()


def test_sending_a_run_again_after_a_kill_repeats_no_entry(
    store: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, folder = log_everything(store, monkeypatch)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    class Killed(BaseException):
        pass

    def die(*arguments: Any, **named: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "set_terminated", die)
        with pytest.raises(Killed):
            store.send(folder, "unused")
    for file, content in before.items():  # put the outbox entries back, as if they had not been deleted
        if file.name != "run.json":
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    versions = len(store.versions("left"))
    store.send(folder, "unused")
    assert len(store.versions("left")) == versions
    assert len(client(store).get_metric_history(run_id, "epoch/loss_train")) == 2


def test_a_child_run_can_begin_while_the_store_is_unreachable(
    store: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.start_run("parent", {}) as parent:
        with away(store, monkeypatch), store.start_run("child", {}, parent=parent) as child:
            child.log_metrics({"sweep/skill_validation": 0.5})
            assert child.run_id == ""
        [folder] = unsent(Path(store._unsent))
    sent = store.send(folder, "unused")
    run = client(store).get_run(sent.run_id)
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"sweep/skill_validation": 0.5}


def test_a_refused_metric_gives_a_notice_and_later_metrics_are_logged(
    store: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **named: Any) -> Any:
        raise MlflowException("bad name", error_code=INVALID_PARAMETER_VALUE)

    with store.start_run("refused", {}) as run:
        with monkeypatch.context() as patched:
            patched.setattr(MlflowClient, "log_batch", refuse)
            run.log_metrics({"a": 1.0})
        run.log_metrics({"b": 2.0})
    assert any("refused the metric a: " in line for line in run.notices)
    assert client(store).get_run(run.run_id).data.metrics == {"b": 2.0}


def test_a_run_whose_files_cannot_be_stored_keeps_metrics_and_status(
    store: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def full(*arguments: Any, **named: Any) -> Any:
        tries.append(arguments)
        raise OSError(28, "No space left on device")

    with store.start_run("full", {}) as run, monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "log_artifact", full)
        run.log_frame(history(3), "scores.json")
        run.log_metrics({"a": 1.0})
        assert len(tries) == 1  # logging a metric does not try to store the file again
        run.end("FINISHED")
    assert any("No space left" in line and "statecast sync" in line for line in run.notices)
    entity = client(store).get_run(run.run_id)
    assert (entity.info.status, entity.data.metrics) == ("FINISHED", {"a": 1.0})
    for folder in unsent(Path(store._unsent)):
        store.send(folder, "unused")
    assert [file.path for file in client(store).list_artifacts(run.run_id)] == ["scores.json"]


def test_a_full_outbox_drops_new_metric_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_MOST_POINTS", 5)
    box = Outbox(tmp_path, {"name": "long"})
    for step in range(4):
        box.add({"kind": "metrics", "points": [["a", 1.0, 0, step], ["b", 1.0, 0, step]]})
    assert (len(box.entries), box.dropped) == (2, 4)
    box.save()
    assert box.folder is not None
    assert Outbox.read(box.folder).dropped == 4


def test_an_unreachable_store_is_tried_again_after_growing_waits(
    store: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = store._connection
    clock = [1000.0]
    monkeypatch.setattr("forecaster.registry.connection.monotonic", lambda: clock[0])
    tries: list[float] = []

    def probe(address: object) -> None:
        tries.append(clock[0])
        raise ModelError("no MLflow server answers")

    with store.start_run("retried", {}) as run, away(store, monkeypatch):
        run.log_metrics({"a": 1.0})
        monkeypatch.setattr(type(connection.runs), "check", probe)
        for clock[0] in (1010.0, 1031.0, 1060.0, 1092.0, 1100.0):
            run.log_metrics({"a": 1.0})
        assert tries == [1031.0, 1092.0]  # the run tries the store again after 30 s, then after 60 s
        monkeypatch.undo()
    assert client(store).get_run(run.run_id).data.metrics == {"a": 1.0}


def test_sending_the_outbox_of_another_running_process_is_refused(
    store: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = log_everything(store, monkeypatch)
    file = folder / "run.json"
    own = process_tag()
    parent = [*own.split()[:2], str(os.getppid()), str(started_s(os.getppid())), own.split()[4]]
    file.write_text(file.read_text().replace(own, " ".join(parent)))
    with pytest.raises(ModelError, match=f"process {os.getppid()} still writes"):
        store.send(folder, "unused")
    file.write_text(file.read_text().replace(" ".join(parent), own))
    store.send(folder, "unused")


def test_a_full_disk_does_not_stop_an_mlflow_run(store: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with store.start_run("full disk", {}) as run, away(store, monkeypatch):
        with monkeypatch.context() as patched:
            patched.setattr("forecaster.durable.write_bytes", full)
            run.log_metrics({"a": 1.0})
            run.log_metrics({"b": 1.0})
        store._connection.mark_present()
    assert len([line for line in run.notices if "No space left on device" in line]) == 1
    for folder in unsent(Path(store._unsent)):
        store.send(folder, "unused")
    assert client(store).get_run(run.run_id).data.metrics == {"a": 1.0, "b": 1.0}


def test_two_outboxes_of_one_run_have_separate_folders(tmp_path: Path) -> None:
    boxes = [Outbox(tmp_path, {"name": "same", "run_id": "0" * 32}) for _ in range(2)]
    assert len({box.make_folder() for box in boxes}) == 2


def test_the_error_of_a_failed_run_is_stored_as_tag_and_note(store: Registry) -> None:
    with pytest.raises(DataError), store.start_run("failed", {}) as run:
        raise DataError("weather.csv: row 3: no such column; see s3://me:secret@bucket")
    tags = client(store).get_run(run.run_id).data.tags
    assert tags["statecast.error"] == "weather.csv: row 3: no such column; see s3://***@bucket"
    assert tags["mlflow.note.content"] == tags["statecast.error"]


def test_later_results_are_added_to_a_run_that_has_ended(store: Registry) -> None:
    with store.start_run("ended", {}) as run:
        run.log_model(forecaster(9), "ended", history(3))
        run.log_frame(history(3), "backtest/scores.json")
    with store.reopen(run.run_id) as again:
        again.log_metrics({"test/wql": 0.5}, of_model=True)
        again.log_frame(history(3), "test/scores.json")
    entity = client(store).get_run(run.run_id)
    assert (entity.info.status, entity.data.metrics) == ("FINISHED", {"test/wql": 0.5})
    shown = json.loads(entity.data.tags["mlflow.loggedArtifacts"])
    assert [table["path"] for table in shown] == ["backtest/scores.json", "test/scores.json"]
    assert entity.outputs is not None
    model = client(store).get_logged_model(entity.outputs.model_outputs[0].model_id)
    assert [metric.key for metric in model.metrics or []] == ["test/wql"]


def test_send_registers_the_forecaster_saved_in_a_given_folder(store: Registry, tmp_path: Path) -> None:
    forecaster(7).save(tmp_path / "saved")
    sent = store.send(tmp_path / "saved", "from a folder")
    assert str(sent.version) == "from a folder/1"
    assert store.load("from a folder/1").version == forecaster(7).version
    assert (tmp_path / "saved").exists()


def test_sending_a_folder_with_neither_run_nor_model_is_refused(store: Registry, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds neither an unsent run nor a saved model"):
        store.send(tmp_path, "unused")


def test_a_completely_stored_run_leaves_no_outbox_folder(store: Registry) -> None:
    with store.start_run("whole", {}) as run:
        run.log_model(forecaster(8), "whole", history(3))
        run.log_frame(pl.DataFrame({"a": [1.0, float("nan")]}), "table.json")
    assert isinstance(run, Run)
    assert not Path(store._unsent).exists()
