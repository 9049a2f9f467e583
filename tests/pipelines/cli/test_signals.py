"""Ctrl-C, SIGTERM and SIGKILL, sent to a command in the midst of its work."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.sinks.files import read_forecasts
from pipelines.state import state_table
from tests.pipelines.cli.conftest import PATIENCE_S, ended, start, statecast, until, write_series
from tests.processes import started

HOURS = 1200
# A job that was begun in the background of a script ignores Ctrl-C; SIGTERM it must hear all the same.
HEARD = pytest.mark.parametrize(
    ("number", "ignoring"),
    [(signal.SIGINT, ()), (signal.SIGTERM, ()), (signal.SIGTERM, (signal.SIGINT,))],
    ids=["SIGINT", "SIGTERM", "SIGTERM with SIGINT ignored"],
)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three series that a job is busy with for a while."""
    return write_series(tmp_path_factory.mktemp("long") / "long.csv", HOURS)


def forecasts(folder: Path) -> bool:
    return any(folder.glob("forecasts/[!.]*"))


def prisms(pid: int) -> list[psutil.Process]:
    found = [child for child in psutil.Process(pid).children(recursive=True) if "prism" in child.name()]
    assert found
    return found


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=PATIENCE_S)[1]


@pytest.mark.parametrize("here", [signal.SIG_IGN, signal.default_int_handler])
def test_what_these_tests_start_hears_signals_whatever_the_tests_themselves_ignore(here: Any) -> None:
    asks = "import signal; print(*(int(signal.getsignal(n) is signal.SIG_IGN) for n in (2, 15)))"
    before = signal.signal(signal.SIGINT, here)
    try:
        told = [
            started([sys.executable, "-c", asks], ignoring, stdout=subprocess.PIPE)
            for ignoring in ((), (signal.SIGINT,))
        ]
        assert signal.getsignal(signal.SIGINT) == here
    finally:
        signal.signal(signal.SIGINT, before)
    assert [ended(process).out for process in told] == ["0 0\n", "1 0\n"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_is_interrupted_is_a_killed_run(
    tmp_path: Path, long: Path, number: signal.Signals, trained: tuple[str, dict[str, Any]]
) -> None:
    store = tmp_path / "runs.db"  # a copy of one with its tables made, which take their time
    store.write_bytes(Path(trained[0].removeprefix("sqlite:///")).read_bytes())

    def ask(sql: str) -> Any:
        with sqlite3.connect(store) as database:
            return database.execute(sql).fetchone()

    uri = f"sqlite:///{store}"
    job = start(
        "train", long, "--epochs", 10_000, "--hidden", 4, "--tracking-uri", uri, "--json", cwd=tmp_path
    )
    losses = (
        "select count(*) from runs join metrics using (run_uuid) where status='RUNNING' and key='train_loss'"
    )
    until(lambda: ask(losses)[0] >= 2, job)
    job.send_signal(number)
    told = ended(job)
    assert (told.code, told.out, told.line) == (128 + number, "", "interrupted")
    assert ask("select status from runs order by start_time desc")[0] == "KILLED"


@HEARD
def test_a_backfill_that_is_interrupted_leaves_what_was_there(
    tmp_path: Path, long: Path, model: Path, number: signal.Signals, ignoring: tuple[signal.Signals, ...]
) -> None:
    options = ("-m", model, "--json", "--shards", 1, "-s", "jobs.windows_per_step=1")
    assert statecast("backfill", long, *options, "--end", "2013-01-02", cwd=tmp_path).code == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    job = start("backfill", long, *options, cwd=tmp_path, ignoring=ignoring)
    until(lambda: forecasts(tmp_path / "out" / ".backfill"), job)
    job.send_signal(number)
    told = ended(job)
    assert (told.code, told.out, told.line) == (128 + number, "", "interrupted")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(read_forecasts(tmp_path / "out")) == 3 * 24
    assert not (tmp_path / "out" / ".backfill").exists()


@pytest.mark.prism
@HEARD
def test_a_stream_that_is_interrupted_ends_cleanly_and_goes_on_later(
    tmp_path: Path, long: Path, model: Path, number: signal.Signals, ignoring: tuple[signal.Signals, ...]
) -> None:
    options = ("-m", model, "--json", "--shards", 2)
    job = start("stream", long, *options, "--speed", 20 * 3600, cwd=tmp_path, ignoring=ignoring)
    until(lambda: forecasts(tmp_path / "out"), job)
    engines = prisms(job.pid)
    job.send_signal(number)
    first = ended(job)
    assert first.code == 0, first.err
    stopped = json.loads(first.out)
    assert stopped["stopped"]
    assert stopped["missing"] == 0
    assert 0 < stopped["used"] < 3 * HOURS
    assert gone(engines)
    assert state_table.read(tmp_path / "out" / "state").offset("replay") == stopped["rows_in"]

    rest = statecast("stream", long, *options, "--resume", cwd=tmp_path).object
    assert (rest["missing"], rest["pending"], rest["stopped"]) == (0, 0, False)
    assert rest["rows_in"] == rest["used"] == 3 * HOURS  # counts go on
    assert len(read_forecasts(tmp_path / "out")) == 3 * HOURS


@pytest.mark.prism
def test_a_second_interrupt_ends_a_stream_at_once_and_neither_it_nor_a_kill_leaves_a_prism_or_costs_a_row(
    tmp_path: Path, long: Path, model: Path
) -> None:
    for signals in ((signal.SIGINT, signal.SIGINT), (signal.SIGKILL,)):
        folder = tmp_path / signals[-1].name
        job = start("stream", long, "-m", model, "--speed", 3600, "-o", folder, cwd=tmp_path)
        until(lambda folder=folder: forecasts(folder), job)  # type: ignore[misc]
        engines = prisms(job.pid)
        job.send_signal(signals[0])
        while job.poll() is None:  # two that come together are one: again, until one was heard as the second
            time.sleep(0.2)
            job.send_signal(signals[-1])
        told = ended(job)
        assert told.code == (-signal.SIGKILL if signals[-1] == signal.SIGKILL else 130)
        assert "Traceback" not in told.err
        assert gone(engines)
        rest = statecast("stream", long, "-m", model, "-o", folder, "--resume", "--json", cwd=tmp_path).object
        assert (rest["rows_in"], rest["used"], rest["missing"]) == (3 * HOURS, 3 * HOURS, 0)
        assert len(read_forecasts(folder)) == 3 * HOURS
