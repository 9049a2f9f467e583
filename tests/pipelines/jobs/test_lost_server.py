"""Test that no result of a training is lost if the MLflow server is killed during the training."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from forecaster.registry.outbox import unsent
from forecaster.registry.ui import ui_command, ui_environment
from forecaster.training.epochs import Epoch
from pipelines.cli.app import run
from pipelines.jobs.progress import Progress
from pipelines.jobs.train import run_training
from pipelines.settings.config import JobConfig
from schemas.errors import ModelError
from tests.pipelines.jobs.test_train import job

TIMEOUT_S = 300.0


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


@contextmanager
def server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run an MLflow server in a separate process group, which is killed at the end."""
    uri = f"sqlite:///{folder}/server.db"
    with open(folder / "server.log", "ab") as log:
        process = subprocess.Popen(
            ui_command(uri, port=port),
            env=ui_environment(uri),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline_s, "the server does not answer in time"
            time.sleep(0.2)
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a server and its worker processes with SIGKILL."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_training_loses_nothing_if_the_mlflow_server_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    local = job(tmp_path, epochs=4)
    mlflow = local.mlflow.model_copy(update={"tracking_uri": type(local.mlflow.tracking_uri)(address)})
    config: JobConfig = local.model_copy(update={"mlflow": mlflow})
    epochs: list[Epoch] = []
    with server(tmp_path, port) as process:

        def kill_after_two_epochs(epoch: Epoch) -> None:
            epochs.append(epoch)
            if len(epochs) == 2:
                kill(process)

        with pytest.raises(ModelError, match="was trained, and the MLflow store") as caught:
            run_training(config, "waves", Progress(epoch=kill_after_two_epochs))
    [folder] = unsent(tmp_path / "statecast-unsent")
    assert f"statecast register {folder}" in str(caught.value)
    with server(tmp_path, port):
        assert run(["register", str(folder), "--tracking-uri", address]) == 0
        assert "registered waves/1" in capsys.readouterr().out
        client = MlflowClient(address, address)
        version = client.get_model_version("waves", "1")
        assert version.run_id is not None
        entity = client.get_run(version.run_id)
        assert entity.info.status == "FINISHED"
        losses = client.get_metric_history(version.run_id, "epoch/loss_train")
        trained = [epoch for epoch in epochs if "train_loss" in epoch]
        assert [(int(p.step), p.value) for p in losses] == [
            (int(e["epoch"]), e["train_loss"]) for e in trained
        ]
        assert "backtest/skill_vs_persistence" in entity.data.metrics
        plots = {Path(file.path).name for file in client.list_artifacts(version.run_id, "plots")}
        assert {"loss.png", "error_by_horizon.png", "calibration.png"} <= plots
    assert not folder.exists()
