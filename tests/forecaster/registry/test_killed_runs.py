"""Tests that the next run sets the status of an earlier run to KILLED if its process was killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient

from forecaster.registry import killed_runs
from forecaster.registry.killed_runs import mark_killed_runs, process_tag
from forecaster.registry.registry import Registry
from tests.forked import ForkedProcess

START_AND_DIE = """
import os, signal, sys
from forecaster.registry.registry import Registry
with Registry(sys.argv[1], "tests").start_run("dies", {}):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_run_marks_a_killed_run_as_killed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    registry = Registry(uri, "tests")
    with registry.start_run("alive", {}) as alive:
        assert ForkedProcess(["-c", START_AND_DIE, uri]).wait() == -signal.SIGKILL
        with registry.start_run("next", {}):
            runs = registry.runs().select("name", "status").rows()
    assert sorted(runs) == [("alive", "RUNNING"), ("dies", "KILLED"), ("next", "RUNNING")]
    client = MlflowClient(uri)
    killed = next(
        run_id for name, run_id in registry.runs().select("name", "run_id").rows() if name == "dies"
    )
    assert "SIGKILL" in client.get_run(killed).data.tags["mlflow.note.content"]
    assert client.get_run(alive.run_id).info.status == "FINISHED"


def test_mark_killed_runs_changes_no_run_that_just_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db", "tests")
    client = MlflowClient(registry.tracking_uri)
    with registry.start_run("ends", {}) as run:
        found = client.get_run(run.run_id)
    assert found.info.status == "RUNNING"
    monkeypatch.setattr(client, "search_runs", lambda *given, **options: [found])
    monkeypatch.setattr(killed_runs, "_is_dead", lambda tag: True)
    assert mark_killed_runs(client, found.info.experiment_id) == 0
    assert client.get_run(run.run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("change", "is_dead"),
    [
        ({}, False),
        ({2: "4194303"}, True),  # no process has this id
        ({3: "1.0"}, True),  # the process with this id started later, so it is another process
        ({1: "pid:[1]"}, False),  # the process is in another container, where it may still run
        ({0: "an-earlier-boot", 1: "pid:[4026531836]"}, True),
    ],
)
def test_a_process_is_dead_only_if_it_certainly_ended(
    monkeypatch: pytest.MonkeyPatch, change: dict[int, str], is_dead: bool
) -> None:
    if 0 in change:
        monkeypatch.setattr(killed_runs, "_namespace", lambda: killed_runs._OF_HOST)
    parts = process_tag().split()
    for position, text in change.items():
        parts[position] = text
    assert killed_runs._is_dead(" ".join(parts)) is is_dead
    assert str(os.getpid()) in process_tag()
