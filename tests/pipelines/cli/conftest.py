"""Helpers that run commands as a user does, and the tiny model that the tests of this folder share."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from forecaster.registry.new_store import make_store
from forecaster.registry.store import Store
from forecaster.time.windows import Windows
from pipelines.cli.app import run
from pipelines.sinks.files import read_forecasts
from tests.fleets import START, forecaster, rows_of
from tests.forked import ForkedProcess

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 600.0  # a long time limit, because the machine may run many other processes


@dataclass
class EndedCommand:
    """The exit code and the output of a command that has ended."""

    code: int
    out: str
    err: str

    @property
    def stderr_line(self) -> str:
        """Return the message on stderr, which must be one line."""
        assert len(self.messages) == 1, self.err
        return self.messages[0]

    @property
    def messages(self) -> list[str]:
        """Return the lines on stderr, without the JSON lines with counts that a job logs while it runs."""
        return [line for line in self.err.splitlines() if not line.startswith('{"job": ')]

    @property
    def json_object(self) -> dict[str, Any]:
        """Return the JSON object on stdout; fail if the command failed or printed more than this object."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1
        parsed: dict[str, Any] = json.loads(self.out)
        return parsed


def start(
    *arguments: object, cwd: Path, ignoring: Sequence[signal.Signals] = (), **changes: str
) -> ForkedProcess:
    """Start a command in a new process and session, with resource warnings as errors.

    See `ForkedProcess` for the signals that the process ignores.
    """
    return ForkedProcess(
        ["-m", "pipelines.cli", *map(str, arguments)],
        ignoring,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", **changes},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_exit(process: ForkedProcess, timeout_s: float = TIMEOUT_S) -> EndedCommand:
    """Wait until a process ends, and return its exit code and output; fail the test after a timeout."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"{process.args!r} still runs after {timeout_s:.0f} s: {out}{err}")
    return EndedCommand(process.wait(), out, err)


def statecast(*arguments: object, cwd: Path, **changes: Any) -> EndedCommand:
    """Run a ``statecast`` command to its end, and return its exit code and output."""
    return wait_for_exit(start(*arguments, cwd=cwd, **changes))


def wait_until(condition: Callable[[], Any], process: ForkedProcess) -> None:
    """Wait until a condition is true; fail the test if the process ends first or time runs out."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, wait_for_exit(process)
        assert time.monotonic() < deadline_s, "the condition did not become true in time"
        time.sleep(0.05)


def write_series(path: Path, hours: int, series: int = 3) -> Path:
    """Write a CSV of series that repeat every day, with one value an hour, and return its path."""
    hour = pl.int_range(hours, eager=True).cast(pl.Float64)
    columns = [((hour + 3 * s) * (2 * 3.141592653589793 / 24)).sin() * 5 + 20 * s for s in range(series)]
    values = pl.DataFrame({f"s{s}": column for s, column in enumerate(columns)}).to_numpy().copy()
    rows = rows_of(Windows(tuple(f"s{s}" for s in range(series)), START, values)).sort("timestamp")
    rows.write_csv(path, datetime_format="%Y-%m-%dT%H:%M:%SZ")
    return path


@pytest.fixture(scope="session")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a CSV of three series of 400 hours, in a separate folder."""
    return write_series(tmp_path_factory.mktemp("series") / "series.csv", 400)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a saved forecaster, which commands load without MLflow."""
    folder = tmp_path_factory.mktemp("model")
    forecaster().save(folder)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, series: Path) -> tuple[str, dict[str, Any]]:
    """Train the model ``tiny``; return the URI of its MLflow store, and the JSON object of the training.

    Tests must not change this store: a test that does takes the store of `own_store`.
    """
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'runs.db'}"
    make_store(Store.parse(uri))
    tiny = ("--hidden", 8, "--horizon", 3, "--epochs", 1, "--set", "network.layers=1")
    result = statecast(
        "train", series, *tiny, "--register", "tiny", "--tracking-uri", uri, "--json", cwd=folder
    )
    return uri, result.json_object


@pytest.fixture
def own_store(trained: tuple[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the MLflow database with the model ``tiny``; a test may change the copy."""
    copied = tmp_path_factory.mktemp("own-store") / "runs.db"
    return Path(shutil.copyfile(trained[0].removeprefix("sqlite:///"), copied))


@dataclass
class Job:
    """A function that runs commands in a folder with a tiny model, and captures their output."""

    folder: Path
    streams: pytest.CaptureFixture[str]

    def __call__(self, command: str, code: int = 0) -> tuple[Any, list[str]]:
        """Run a command; return its JSON object (None if the command fails), and its lines on stderr."""
        found = run([*command.split(), "--json"])
        captured = self.streams.readouterr()
        assert found == code, captured.err
        return (json.loads(captured.out.splitlines()[-1]) if code == 0 else None), captured.err.splitlines()

    def watch(self, folder: str, *options: str) -> tuple[Any, list[str]]:
        """Run a stream that watches ``folder``, and stop it once all files are read.

        Return its JSON object and its lines on stderr.
        """
        stop = self.folder / "out" / ".stop"

        def stop_when_read() -> None:
            manifest = self.folder / "out" / "state" / "folder.jsonl"
            files = len(list((self.folder / folder).iterdir()))
            for _ in range(300):
                time.sleep(0.1)
                if manifest.exists() and len(manifest.read_text().splitlines()) >= files:
                    break
            time.sleep(1)
            stop.touch()

        ender = threading.Thread(target=stop_when_read)
        ender.start()
        try:
            return self(f"stream {folder} --watch -m model --runner in-process {' '.join(options)}")
        finally:
            ender.join()

    def series(self, output: str = "out") -> set[str]:
        """Return the ids of the series that have forecasts."""
        return set(read_forecasts(self.folder / output)["series_id"])


@pytest.fixture
def job(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Job:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(model)
    return Job(tmp_path, capsys)
