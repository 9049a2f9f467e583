"""Tests that the first run that starts in an MLflow store creates the store.

The run creates a complete store or none, even if it is killed, or if several first runs start together.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from forecaster.registry.store import Store
from schemas.errors import ModelError
from tests.forked import ForkedProcess

MOMENTS = ("SIGKILL:0", "SIGKILL:0.3", "SIGKILL:1.0", "SIGINT:0.2", "SIGINT:0.8")


@pytest.fixture(scope="module")
def first_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run ``first_runs.py``; return its results for a run per signal in `MOMENTS` and three runs at once."""
    folder = tmp_path_factory.mktemp("first")
    program = ["-m", "tests.forecaster.registry.first_runs", str(folder), *MOMENTS]
    process = ForkedProcess(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found | {"stderr": errors, "folder": folder}


def test_a_killed_first_run_leaves_a_complete_store_or_no_store(first_runs: dict[str, Any]) -> None:
    assert len(first_runs["killed"]) == len(MOMENTS)
    for case in first_runs["killed"]:
        assert case["first"] in (-9, 130, 0), case  # 0 if the process ended before the signal
        assert case["again"] == 0, (case, first_runs["stderr"])
        assert case["files"] == ["runs.db"], case
    assert any("runs.db" not in case["left"] for case in first_runs["killed"]), "all were killed too late"


def test_simultaneous_first_runs_share_one_store(first_runs: dict[str, Any]) -> None:
    assert first_runs["at_once"] == [0, 0, 0], first_runs["stderr"]
    with sqlite3.connect(first_runs["folder"] / "at-once" / "runs.db") as database:
        assert database.execute("select count(*) from runs where status = 'FINISHED'").fetchone() == (3,)
        named_statecast = "select count(*) from experiments where name = 'statecast'"
        assert database.execute(named_statecast).fetchone() == (1,)


@pytest.mark.parametrize(
    "tables",
    [("alembic_version",), ("experiments", "runs", "alembic_version")],
    ids=["one table", "several tables"],
)
def test_the_error_for_an_incomplete_mlflow_store_names_a_remedy(
    tmp_path: Path, tables: tuple[str, ...]
) -> None:
    file = tmp_path / "runs.db"
    with sqlite3.connect(file) as database:
        for table in tables:
            database.execute(f"create table {table} (name text)")
    with pytest.raises(ModelError, match="is incomplete") as caught:
        Store.parse(f"sqlite:///{file}").check()
    assert f"rm {file}" in str(caught.value)


def test_a_database_of_another_program_is_refused_as_mlflow_store(tmp_path: Path) -> None:
    file = tmp_path / "customers.db"
    with sqlite3.connect(file) as database:
        database.execute("create table customers (name text)")
        database.execute("insert into customers values ('Ada')")
    with pytest.raises(ModelError, match="holds other tables"):
        Store.parse(f"sqlite:///{file}").check()
    with sqlite3.connect(file) as database:
        assert database.execute("select * from customers").fetchall() == [("Ada",)]


def test_the_first_run_makes_an_mlflow_store_from_an_empty_file(tmp_path: Path) -> None:
    from forecaster.registry.registry import Registry

    file = tmp_path / "runs.db"
    file.touch()
    registry = Registry(f"sqlite:///{file}")
    with registry.start_run("first", {}) as run:
        pass
    assert registry.runs()["run_id"].to_list() == [run.run_id]
