"""Commands as a user runs them, and one tiny model that all of these tests share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from forecaster.windows import Windows
from pipelines.cli.app import run
from pipelines.sinks.files import read_forecasts
from tests.fleets import START, forecaster, rows_of
from tests.processes import started

ROOT = Path(__file__).parents[3]
PATIENCE_S = 600.0  # for what would otherwise hang; two cores may be shared with much else


@dataclass
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """What it said on stderr, which must be one line."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]

    @property
    def object(self) -> dict[str, Any]:
        """What it printed on stdout, which must be one JSON object."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1
        found: dict[str, Any] = json.loads(self.out)
        return found


def start(
    *arguments: object, cwd: Path, ignoring: Sequence[signal.Signals] = (), **changes: str
) -> subprocess.Popen[str]:
    """A command in a process and session of its own, warnings being errors; see `tests.processes.started`."""
    return started(
        [sys.executable, "-W", "error::ResourceWarning", "-m", "pipelines.cli", *map(str, arguments)],
        ignoring,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **changes},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(process: subprocess.Popen[str], patience_s: float = PATIENCE_S) -> Ended:
    """What a process said, once it has ended."""
    try:
        out, err = process.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"{process.args!r} goes on after {patience_s:.0f} s: {out}{err}")
    return Ended(process.returncode, out, err or "")


def statecast(*arguments: object, cwd: Path, **changes: Any) -> Ended:
    """A command, run to its end."""
    return ended(start(*arguments, cwd=cwd, **changes))


def until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Waits until something is so, as long as the process lives."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, ended(process)
        assert time.monotonic() < deadline_s, "it never came to be"
        time.sleep(0.05)


def write_series(path: Path, hours: int, series: int = 3) -> Path:
    """A CSV of series that repeat every day, one value an hour."""
    hour = pl.int_range(hours, eager=True).cast(pl.Float64)
    columns = [((hour + 3 * s) * (2 * 3.141592653589793 / 24)).sin() * 5 + 20 * s for s in range(series)]
    values = pl.DataFrame({f"s{s}": column for s, column in enumerate(columns)}).to_numpy().copy()
    rows = rows_of(Windows(tuple(f"s{s}" for s in range(series)), START, values)).sort("timestamp")
    rows.write_csv(path, datetime_format="%Y-%m-%dT%H:%M:%SZ")
    return path


@pytest.fixture(scope="session")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three series of 400 hours, in a folder of their own."""
    return write_series(tmp_path_factory.mktemp("series") / "series.csv", 400)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A forecaster in a folder, which is loaded without MLflow."""
    folder = tmp_path_factory.mktemp("model")
    forecaster().save(folder)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, series: Path) -> tuple[str, dict[str, Any]]:
    """The address of a store with one version of the model ``tiny``, and what ``train --json`` said of it."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'runs.db'}"
    tiny = ("--hidden", 8, "--horizon", 3, "--epochs", 1, "--set", "network.layers=1")
    told = statecast(
        "train", series, *tiny, "--register", "tiny", "--tracking-uri", uri, "--json", cwd=folder
    )
    return uri, told.object


@dataclass
class Job:
    """Runs commands in a folder, on a tiny model, and keeps what they print."""

    folder: Path
    streams: pytest.CaptureFixture[str]

    def __call__(self, command: str, code: int = 0) -> tuple[Any, list[str]]:
        """The JSON object that a command prints, None where it fails, and its lines on stderr."""
        found = run([*command.split(), "--json"])
        said = self.streams.readouterr()
        assert found == code, said.err
        return (json.loads(said.out.splitlines()[-1]) if code == 0 else None), said.err.splitlines()

    def watch(self, folder: str, *options: str) -> tuple[Any, list[str]]:
        """`__call__` of a stream that watches a folder, and is stopped once it has read all files."""
        stop = self.folder / "out" / ".stop"

        def end() -> None:
            manifest = self.folder / "out" / "state" / "folder.jsonl"
            files = len(list((self.folder / folder).iterdir()))
            for _ in range(300):
                time.sleep(0.1)
                if manifest.exists() and len(manifest.read_text().splitlines()) >= files:
                    break
            time.sleep(1)
            stop.touch()

        ender = threading.Thread(target=end)
        ender.start()
        try:
            return self(f"stream {folder} --watch -m model --runner in-process {' '.join(options)}")
        finally:
            ender.join()

    def series(self, output: str = "out") -> set[str]:
        """The series that were forecast."""
        return set(read_forecasts(self.folder / output)["series_id"])


@pytest.fixture
def job(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Job:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(model)
    return Job(tmp_path, capsys)
