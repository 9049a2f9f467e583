"""Law: backfill to time t, then stream from t = one run over everything; so is a stream that was stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from forecaster.windows import Windows
from pipelines import state_table
from pipelines.jobs.backfill import BackfillJob, run_backfill
from pipelines.jobs.outcome import Counts
from pipelines.jobs.stream import StreamJob, run_stream
from pipelines.sinks.files import read_forecasts
from pipelines.sources.feeds import Input, ReplayFeed, WatchFeed
from pipelines.sources.read import ask_to_stop
from pipelines.sources.tables import Columns
from tests.fleets import (
    HOUR_US,
    START,
    assert_same_frames,
    assert_same_state,
    forecaster,
    nested,
    rows_of,
    scales,
)

pytestmark = pytest.mark.prism

ROOT = Path(__file__).parents[2]
MODEL = forecaster(allowed_lateness="2h")
EVERYTHING = Input(Columns())


@pytest.fixture(scope="module")
def whole(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one backfill over everything."""
    output = tmp_path_factory.mktemp("whole")
    run_backfill(BackfillJob(MODEL, (str(small_file),), EVERYTHING, output))
    return output


def assert_same_ends(one: Path, other: Path) -> None:
    """The state tables of two outputs are the same."""
    a, b = (state_table.read(output / "state") for output in (one, other))
    assert a.state is not None
    assert b.state is not None
    assert a.closed_through == b.closed_through
    assert_same_state(a.state, b.state)


def test_a_stream_goes_on_where_a_backfill_ended(
    small_fleet: Windows, small_file: Path, whole: Path, tmp_path: Path
) -> None:
    t_us = (START + 55) * HOUR_US
    before, after = Input(Columns(), end_us=t_us), Input(Columns(), start_us=t_us)
    first = run_backfill(BackfillJob(MODEL, (str(small_file),), before, tmp_path / "a", shards=5))
    feed = ReplayFeed((str(small_file),), after, 3600, lateness_s=7200)
    second = run_stream(
        StreamJob(MODEL, feed, tmp_path / "b", shards=2, state_table=tmp_path / "a" / "state")
    )

    assert first.counts.missing == second.counts.missing == 0
    assert first.counts.rows_in == second.counts.outside
    assert first.counts.outside == second.counts.rows_in == second.counts.used
    together = pl.concat([read_forecasts(tmp_path / "a"), read_forecasts(tmp_path / "b")])
    assert_same_frames(read_forecasts(whole), together, scales(small_fleet))
    assert_same_ends(whole, tmp_path / "b")


def test_a_backfill_goes_on_where_a_backfill_ended(
    small_fleet: Windows, small_file: Path, whole: Path, tmp_path: Path
) -> None:
    t_us = (START + 80) * HOUR_US
    frames = []
    table = None
    for number, bounds in enumerate((Input(Columns(), end_us=t_us), Input(Columns(), start_us=t_us))):
        output = tmp_path / str(number)
        job = BackfillJob(
            MODEL, (str(small_file),), bounds, output, shards=3 - number, state_table=table, format="jsonl"
        )
        run_backfill(job)
        frames.append(read_forecasts(output))
        table = output / "state"
    assert_same_frames(read_forecasts(whole), pl.concat(frames), scales(small_fleet))
    assert_same_ends(whole, tmp_path / "1")


def test_rows_before_the_handover_come_too_late_and_the_clock_never_goes_back(
    small_file: Path, whole: Path, tmp_path: Path
) -> None:
    # A table with a row that waits, as a stopped stream leaves one.
    shutil.copytree(whole / "state", tmp_path / "state")
    waiting = rows_of(Windows(("series 1",), START + 121, np.ones((1, 1))))
    waiting.write_parquet(tmp_path / "state" / "pending" / "shard-0000.parquet")
    old = Input(Columns(), end_us=(START + 20) * HOUR_US)
    job = BackfillJob(MODEL, (str(small_file),), old, tmp_path / "out", state_table=tmp_path / "state")

    counts = run_backfill(job).counts
    assert counts.too_late == counts.rows_in > 0
    assert counts.restored == counts.pending == 1
    assert counts.missing == 0
    assert not list((job.output / "forecasts").iterdir())
    assert_same_ends(whole, job.output)
    assert state_table.read(job.states).pending.equals(waiting)


# A stream in a process of its own, which goes on until it is asked to stop.
STREAM = """
import json, sys
from pathlib import Path
from pipelines.sources.feeds import Input, ReplayFeed
from pipelines.sources.tables import Columns
from pipelines.jobs.stream import StreamJob, run_stream
from tests.fleets import forecaster

def told(lines):
    for line in lines:
        print(line["last"], flush=True)

if __name__ == "__main__":
    file, output = sys.argv[1:]
    feed = ReplayFeed((file,), Input(Columns()), 3600, 7200, speed=3600 * 8, windows_per_step=4)
    outcome = run_stream(StreamJob(forecaster(allowed_lateness="2h"), feed, Path(output), shards=3), told)
    print(json.dumps(outcome.as_json()), flush=True)
"""


@dataclass(frozen=True)
class Stopped:
    """A stream that was stopped in the middle, and what it said at its end."""

    output: Path
    counts: dict[str, Any]


@pytest.fixture(scope="module")
def stopped(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    output = tmp_path_factory.mktemp("stopped")
    command = [sys.executable, "-c", STREAM, str(small_file), str(output)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("2013-01-02 "):  # more than a day of five is out
                    process.send_signal(signal.SIGINT)
                    break
            said = process.stdout.read().splitlines()
            assert process.wait(30) == 0
        finally:
            process.kill()
    return Stopped(output, json.loads(said[-1]))


def test_a_stopped_stream_forecasts_from_no_window_that_was_open(stopped: Stopped) -> None:
    table = state_table.read(stopped.output / "state")
    assert table.closed_through is not None
    assert START + 24 <= table.closed_through < START + 118
    issued_us = read_forecasts(stopped.output).select(pl.col("issued_at").dt.epoch("us").max()).item()
    assert issued_us == (table.closed_through + 1) * HOUR_US
    assert table.state is not None
    assert (table.state.clock == table.closed_through).all()
    # The watermark stays two hours behind: rows of two windows wait for the next start.
    waiting = table.pending.select(pl.col("timestamp").dt.epoch("us") // HOUR_US).to_series()
    assert sorted(waiting.unique()) == [table.closed_through + 1, table.closed_through + 2]


def test_a_stopped_stream_accounts_for_every_row(stopped: Stopped) -> None:
    counts = stopped.counts
    assert counts["stopped"]
    assert counts["missing"] == 0
    assert counts["pending"] == len(state_table.read(stopped.output / "state").pending) > 0
    assert counts["used"] + counts["pending"] == counts["rows_in"]


def test_a_stream_that_resumes_ends_as_one_that_was_never_stopped(
    stopped: Stopped, small_fleet: Windows, small_file: Path, whole: Path
) -> None:
    before = read_forecasts(stopped.output)
    waiting = len(state_table.read(stopped.output / "state").pending)
    feed = ReplayFeed((str(small_file),), EVERYTHING, 3600, lateness_s=7200)
    table = stopped.output / "state"
    second = run_stream(StreamJob(MODEL, feed, stopped.output, shards=2, state_table=table, resume=True))

    assert not second.stopped
    assert second.counts.restored == waiting
    assert second.counts.missing == second.counts.too_late == second.counts.pending == 0
    assert stopped.counts["rows_in"] + second.counts.rows_in == len(rows_of(small_fleet))
    # The first part is as it was written, to the bit.
    files = sorted((stopped.output / "forecasts").iterdir())
    identity = ["series_id", "issued_at", "model_version", "revision"]
    everything = pl.concat([pl.read_parquet(file) for file in files])
    assert everything.select(pl.struct(identity).is_unique().all()).item()
    kept = read_forecasts(stopped.output).join(before, on=identity, how="semi")
    assert nested(kept.sort(identity)).equals(nested(before.sort(identity)))
    assert_same_frames(read_forecasts(whole), read_forecasts(stopped.output), scales(small_fleet))
    assert_same_ends(whole, stopped.output)


def test_a_stream_that_is_stopped_before_anything_came_keeps_its_state_and_position(
    whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    job = StreamJob(
        MODEL,
        WatchFeed(str(folder), EVERYTHING, 3600, poll_s=0.05),
        tmp_path / "out",
        shards=3,
        state_table=whole / "state",
        resume=True,
    )
    outcome = run_stream(job, lambda lines: ask_to_stop(job.stop_file))
    assert outcome.stopped
    assert outcome.counts == Counts()
    assert_same_ends(whole, tmp_path / "out")


def test_a_watched_folder_is_gone_on_with_file_by_file(
    small_fleet: Windows, whole: Path, tmp_path: Path
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    rows = rows_of(small_fleet)
    window = pl.col("timestamp").dt.epoch("us") // HOUR_US - START
    table, used, deadline_s = None, 0, time.time() + 120
    for first, stop in ((0, 30), (30, 31), (31, 120)):
        part = rows.filter(window.is_between(first, stop - 1))
        path = folder / f"{stop:03}.parquet"
        part.write_parquet(path)
        os.utime(path, (time.time() - 60, time.time() - 60))
        feed = WatchFeed(str(folder), EVERYTHING, 3600, lateness_s=7200, poll_s=0.05)
        job = StreamJob(MODEL, feed, output, shards=2, state_table=table, resume=True)
        # The watermark stays two hours behind the newest row: three windows are left open.
        newest = str(datetime.fromtimestamp((START + stop - 3) * 3600, UTC))

        def at_newest(lines: list[dict[str, Any]], job: StreamJob = job, newest: str = newest) -> None:
            if any(line["last"] == newest for line in lines) or time.time() > deadline_s:
                ask_to_stop(job.stop_file)

        counts = run_stream(job, at_newest).counts
        assert counts.missing == counts.too_late == 0
        assert counts.rows_in == len(part)
        used += counts.used
        table = job.states
    left = state_table.read(output / "state")
    assert used + len(left.pending) == len(rows)
    expected = read_forecasts(whole).filter(pl.col("issued_at").dt.epoch("us") <= (START + 117) * HOUR_US)
    assert_same_frames(expected, read_forecasts(output), scales(small_fleet))
