"""Fixtures for tests of the team server: PostgreSQL, the server with two users, and a folder with data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.errors import EngineError
from tests.pipelines.cli.conftest import write_series
from tests.server.postgres import Postgres, find_programs, running_postgres
from tests.server.team_server import TeamServer


@pytest.fixture(scope="session", autouse=True)
def _needs_postgres() -> None:
    for module in ("psycopg", "flask_wtf"):
        pytest.importorskip(module, reason="left out: the packages of statecast[server] are not installed")
    try:
        find_programs()
    except EngineError as error:
        pytest.skip(f"left out: {error}")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Start a PostgreSQL server for all tests of the session."""
    with running_postgres() as running:
        yield running


@pytest.fixture(scope="session")
def server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    """Start the team server, and create the users ana and ben."""
    running = TeamServer(tmp_path_factory.mktemp("team") / "server", postgres.environment())
    running.start()
    try:
        for name in ("ana", "ben"):
            running.add_user(name)
        yield running
    finally:
        running.stop()


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Return a folder with hourly rows of three series and a job file of a tiny network."""
    write_series(tmp_path / "rows.csv", 400)
    (tmp_path / "job.toml").write_text(
        "[network]\nhidden = 4\nlayers = 1\nhorizon = 2\nlags = [1]\nring = 24\n"
        "[training]\nepochs = 3\nrefit = false\n"
    )
    return tmp_path
