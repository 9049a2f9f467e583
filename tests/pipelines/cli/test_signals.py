"""Tests of the effects of SIGINT (Ctrl-C), SIGTERM and SIGKILL on a running command."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.sinks.files import read_forecasts
from pipelines.state import state_table
from tests.forked import ForkedProcess
from tests.pipelines.cli.conftest import TIMEOUT_S, start, statecast, wait_for_exit, wait_until, write_series

HOURS, STREAMED_HOURS = 1200, 400
# Jobs in the background of a shell script ignore SIGINT, but SIGTERM must end them.
ENDING_SIGNALS = pytest.mark.parametrize(
    ("number", "ignoring"),
    [(signal.SIGINT, ()), (signal.SIGTERM, (signal.SIGINT,))],
    ids=["SIGINT", "SIGTERM with SIGINT ignored"],
)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a CSV so long that a job still runs when it gets a signal."""
    return write_series(tmp_path_factory.mktemp("long") / "long.csv", HOURS)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a CSV so long that a stream with a test's ``--speed`` takes about 20 s or longer."""
    return write_series(tmp_path_factory.mktemp("streamed") / "streamed.csv", STREAMED_HOURS)


def has_forecasts(folder: Path) -> bool:
    return any(folder.glob("forecasts/[!.]*"))


def prism_processes(pid: int) -> list[psutil.Process]:
    found = [child for child in psutil.Process(pid).children(recursive=True) if "prism" in child.name()]
    assert found
    return found


def have_ended(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=TIMEOUT_S)[1]


@pytest.mark.parametrize("parent_handler", [signal.SIG_IGN, signal.default_int_handler])
def test_forked_process_ignores_only_signals_in_its_ignoring_argument(parent_handler: Any) -> None:
    script = "import signal; print(*(int(signal.getsignal(n) is signal.SIG_IGN) for n in (2, 15)))"
    before = signal.signal(signal.SIGINT, parent_handler)
    try:
        processes = [
            ForkedProcess(["-c", script], ignoring, stdout=subprocess.PIPE)
            for ignoring in ((), (signal.SIGINT,))
        ]
        assert signal.getsignal(signal.SIGINT) == parent_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert [wait_for_exit(process).out for process in processes] == ["0 0\n", "1 0\n"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_is_logged_as_killed(
    tmp_path: Path, long: Path, number: signal.Signals, own_store: Path
) -> None:
    def query(sql: str) -> Any:
        with sqlite3.connect(own_store) as database:
            return database.execute(sql).fetchone()

    uri = f"sqlite:///{own_store}"
    job = start(
        "train",
        long,
        "--freq",
        "1h",
        "--epochs",
        10_000,
        "--hidden",
        4,
        "--tracking-uri",
        uri,
        "--json",
        cwd=tmp_path,
    )
    losses = (
        "select count(*) from runs join metrics using (run_uuid) "
        "where status='RUNNING' and key='epoch/loss_train'"
    )
    wait_until(lambda: query(losses)[0] >= 2, job)
    job.send_signal(number)
    result = wait_for_exit(job)
    assert (result.code, result.out, result.stderr_line) == (128 + number, "", "interrupted")
    assert query("select status from runs order by start_time desc")[0] == "KILLED"


@ENDING_SIGNALS
def test_an_interrupted_backfill_keeps_the_earlier_output(
    tmp_path: Path, long: Path, model: Path, number: signal.Signals, ignoring: tuple[signal.Signals, ...]
) -> None:
    options = ("-m", model, "--json", "--shards", 1, "-s", "jobs.windows_per_step=1")
    assert statecast("backfill", long, *options, "--end", "2013-01-02", cwd=tmp_path).code == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    job = start("backfill", long, *options, cwd=tmp_path, ignoring=ignoring)
    wait_until(lambda: has_forecasts(tmp_path / "out" / ".backfill"), job)
    job.send_signal(number)
    result = wait_for_exit(job)
    assert (result.code, result.out, result.stderr_line) == (128 + number, "", "interrupted")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(read_forecasts(tmp_path / "out")) == 3 * 24
    assert not (tmp_path / "out" / ".backfill").exists()


@pytest.mark.prism
@ENDING_SIGNALS
def test_an_interrupted_stream_ends_cleanly_and_can_be_resumed(
    tmp_path: Path, streamed: Path, model: Path, number: signal.Signals, ignoring: tuple[signal.Signals, ...]
) -> None:
    options = ("-m", model, "--json", "--shards", 2)
    job = start("stream", streamed, *options, "--speed", 20 * 3600, cwd=tmp_path, ignoring=ignoring)
    wait_until(lambda: has_forecasts(tmp_path / "out"), job)
    engines = prism_processes(job.pid)
    job.send_signal(number)
    first = wait_for_exit(job)
    assert first.code == 0, first.err
    stopped = json.loads(first.out)
    assert stopped["stopped"]
    assert stopped["missing"] == 0
    assert 0 < stopped["used"] < 3 * STREAMED_HOURS
    assert have_ended(engines)
    assert state_table.read(tmp_path / "out" / "state").offset("replay") == stopped["rows_in"]

    rest = statecast("stream", streamed, *options, "--resume", cwd=tmp_path).json_object
    assert (rest["missing"], rest["pending"], rest["stopped"]) == (0, 0, False)
    # The counts include the rows of the first run.
    assert rest["rows_in"] == rest["used"] == 3 * STREAMED_HOURS
    assert len(read_forecasts(tmp_path / "out")) == 3 * STREAMED_HOURS


@pytest.mark.prism
def test_resuming_after_two_interrupts_or_sigkill_loses_no_row(
    tmp_path: Path, streamed: Path, model: Path
) -> None:
    for signals in ((signal.SIGINT, signal.SIGINT), (signal.SIGKILL,)):
        folder = tmp_path / signals[-1].name
        job = start("stream", streamed, "-m", model, "--speed", 3600, "-o", folder, cwd=tmp_path)
        wait_until(lambda folder=folder: has_forecasts(folder), job)  # type: ignore[misc]
        engines = prism_processes(job.pid)
        job.send_signal(signals[0])
        # If two equal signals follow each other closely, the process may receive only one of them. So repeat
        # the last signal until the job has ended.
        while job.poll() is None:
            time.sleep(0.2)
            job.send_signal(signals[-1])
        result = wait_for_exit(job)
        assert result.code == (-signal.SIGKILL if signals[-1] == signal.SIGKILL else 130)
        assert "Traceback" not in result.err
        assert have_ended(engines)
        rest = statecast(
            "stream", streamed, "-m", model, "-o", folder, "--resume", "--json", cwd=tmp_path
        ).json_object
        assert (rest["rows_in"], rest["used"], rest["missing"]) == (3 * STREAMED_HOURS, 3 * STREAMED_HOURS, 0)
        assert len(read_forecasts(folder)) == 3 * STREAMED_HOURS
