from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster.windows import Windows
from pipelines import state_table
from pipelines.jobs.outcome import Counts
from pipelines.jobs.stream import StreamJob, run_stream
from pipelines.sinks.files import read_forecasts
from pipelines.sources.feeds import Input, ReplayFeed, WatchFeed
from pipelines.sources.read import ask_to_stop
from pipelines.sources.tables import Columns
from schemas.errors import DataError, OutputError
from tests.fleets import START, forecaster, rows_of

ALL = Input(Columns())


@pytest.fixture
def job(tmp_path: Path) -> StreamJob:
    """A replay of three series of twenty windows."""
    values = np.random.default_rng(0).normal(size=(20, 3))
    rows_of(Windows(("a", "b", "c"), START, values)).write_parquet(tmp_path / "rows.parquet")
    feed = ReplayFeed((str(tmp_path / "rows.parquet"),), ALL, 3600, windows_per_step=6)
    return StreamJob(forecaster(), feed, tmp_path / "out", shards=2)


def forecasts_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "forecasts").iterdir()}


@pytest.mark.prism
def test_a_replay_streams_to_its_end_and_a_rerun_writes_the_same_files(job: StreamJob) -> None:
    told: list[dict[str, Any]] = []
    outcome = run_stream(job, told.extend)
    assert outcome.counts == Counts(rows_in=60, used=60, series_steps=60)
    assert not outcome.stopped
    assert sum(line["steps"] for line in told) == 60
    assert not outcome.latency_ms  # there is only a backlog
    assert len(read_forecasts(job.output)) == 60
    table = state_table.read(job.states)
    assert table.closed_through == START + 19
    assert table.position == str(START + 20)
    assert not [path.name for path in job.output.iterdir() if path.name.startswith(".")]

    before = forecasts_of(job.output)
    assert isinstance(job.feed, ReplayFeed)
    run_stream(replace(job, feed=replace(job.feed, token="another")))
    assert forecasts_of(job.output) == before


@pytest.mark.prism
def test_a_replay_that_is_over_is_resumed_to_nothing_and_keeps_its_state(job: StreamJob) -> None:
    run_stream(job)
    before = state_table.read(job.states)
    outcome = run_stream(replace(job, state_table=job.states, resume=True))
    assert outcome.counts == Counts()
    after = state_table.read(job.states)
    assert after.position == before.position
    assert after.closed_through == before.closed_through
    assert after.state is not None
    assert sorted(after.state.series_ids) == ["a", "b", "c"]


@pytest.mark.prism
def test_a_paced_replay_tells_its_latency(job: StreamJob) -> None:
    assert isinstance(job.feed, ReplayFeed)
    outcome = run_stream(replace(job, feed=replace(job.feed, speed=3600.0 * 20)))
    assert outcome.counts == Counts(rows_in=60, used=60, series_steps=60)
    assert outcome.latency_ms  # one a closing and shard; closings that come late come together
    assert min(outcome.latency_ms) > 0


@pytest.mark.prism
def test_a_watched_folder_that_is_empty_at_first_is_waited_for(job: StreamJob, tmp_path: Path) -> None:
    folder, looks = tmp_path / "in", 0
    folder.mkdir()
    deadline_s = time.monotonic() + 60

    def on_progress(lines: list[dict[str, Any]]) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:  # nothing for more than a second, which an ended source would not outlast
            assert isinstance(job.feed, ReplayFeed)
            shutil.copyfile(job.feed.paths[0], folder / "rows.parquet")
            os.utime(folder / "rows.parquet", (0, 0))
        if lines or time.monotonic() > deadline_s:
            ask_to_stop(job.stop_file)

    outcome = run_stream(replace(job, feed=WatchFeed(str(folder), ALL, 3600, poll_s=0.05)), on_progress)
    assert looks > 3
    assert outcome.stopped
    assert outcome.counts.rows_in == 60
    assert outcome.counts.pending == 3  # the newest window stays open
    assert outcome.counts.missing == 0


@pytest.mark.prism
def test_a_bad_file_ends_the_stream_in_one_line_and_the_table_stays(job: StreamJob, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.csv").write_text("what,is,this\nx,y,z\n")
    os.utime(folder / "1.csv", (0, 0))
    state_table.write_position(job.states, "as it was")
    with pytest.raises(DataError, match=r"1\.csv: no column") as told:
        run_stream(replace(job, feed=WatchFeed(str(folder), ALL, 3600)))
    assert "\n" not in str(told.value)
    assert (job.states / "position.json").read_text() == "as it was\n"


def test_a_state_table_that_is_not_there_is_said_at_once(job: StreamJob, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no state table"):
        run_stream(replace(job, state_table=tmp_path / "nowhere"))


def test_an_output_folder_that_cannot_be_is_said_at_once(job: StreamJob, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write here"):
        run_stream(replace(job, output=tmp_path / "rows.parquet" / "out"))
