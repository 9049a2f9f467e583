"""Tests of streams: replays, watched folders, bad files, and the state tables from which streams start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from forecaster.shards.counts import Counts
from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, Runner, StreamJob
from pipelines.sinks.files import read_forecasts, read_quarantine
from pipelines.sinks.numbers import JobNumbers
from pipelines.state import state_table
from pipelines.storage import store_of
from schemas.errors import DataError, OutputError
from tests.fleets import START, rows_of
from tests.outputs import contents, hidden
from tests.pipelines.jobs.replays import add_file, replay_job, replay_of, stop_when, watching_folder


def test_a_repeated_replay_writes_the_same_forecast_files(replayed: StreamJob, runner: Runner) -> None:
    job, progress = replace(replayed, runner=runner), list[JobNumbers]()
    outcome = run_stream(job, progress.append)
    assert outcome.counts == Counts(rows_in=60, used=60, series_steps=60, windows=20)
    assert not outcome.stopped
    assert progress[-1].counts == outcome.counts
    assert not outcome.has_latency  # rows of a replay at full speed have no arrival time
    assert len(read_forecasts(job.output)) == 60
    table = state_table.read(job.states)
    assert table.closed_through == START + 19
    assert table.offset("replay") == 60
    assert not hidden(job.output)

    before = contents(job.output / "forecasts")
    run_stream(replace(job, fresh=True))
    assert contents(job.output / "forecasts") == before


def test_resuming_a_finished_replay_changes_no_count_or_offset(replayed: StreamJob, runner: Runner) -> None:
    first = run_stream(replayed)
    before = state_table.read(replayed.states)
    outcome = run_stream(replace(replayed, resume=True, runner=runner))
    assert outcome.counts == first.counts
    after = state_table.read(replayed.states)
    assert after.offset("replay") == before.offset("replay") == 60
    assert after.closed_through == before.closed_through
    assert sorted(after.state.series_ids) == ["a", "b", "c"]


def test_a_replay_with_a_speed_reports_latencies(replayed: StreamJob, runner: Runner) -> None:
    source = replace(replay_of(replayed), speed=3600.0 * 20)
    outcome = run_stream(replace(replayed, source=source, runner=runner))
    assert outcome.counts == Counts(rows_in=60, used=60, series_steps=60, windows=20)
    assert outcome.has_latency  # rows of a paced replay have an arrival time
    assert 0 < outcome.latency_ms(0.5) <= outcome.latency_ms(0.99)
    assert outcome.as_json()["p99_ms"] == outcome.latency_ms(0.99)


def test_a_stream_waits_for_the_first_watched_file(
    replayed: StreamJob, tmp_path: Path, runner: Runner
) -> None:
    folder, looks = tmp_path / "in", 0
    folder.mkdir()
    job = watching_folder(replace(replayed, runner=runner), folder)

    def arrived(numbers: JobNumbers) -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:  # add the file only now, so that the stream first watches an empty folder
            add_file(folder, "rows.parquet", pl.read_parquet(replay_of(replayed).paths[0]))
        return numbers.counts.series_steps > 0

    outcome = run_stream(job, stop_when(job, arrived))
    assert looks > 3
    assert outcome.stopped
    assert outcome.counts.rows_in == 60
    assert outcome.counts.pending == 3  # the newest window stays open, so its three rows are pending
    assert outcome.counts.missing == 0
    assert not job.stop_file.exists()


def test_bad_files_fail_a_stream_and_change_no_snapshot(
    replayed: StreamJob, tmp_path: Path, runner: Runner
) -> None:
    folder = tmp_path / "in"
    add_file(folder, "1.parquet", pl.read_parquet(replay_of(replayed).paths[0]))
    job = watching_folder(replayed, folder)
    run_stream(job, stop_when(job, lambda numbers: numbers.counts.series_steps > 0))
    before = contents(job.states)
    add_file(folder, "2.csv", "what,is,this\nx,y,z\n")
    with pytest.raises(DataError, match=r"2\.csv: no column") as raised:
        run_stream(replace(job, resume=True, runner=runner))
    assert "\n" not in str(raised.value)
    assert contents(job.states) == before


def test_a_stream_with_skip_bad_files_quarantines_a_bad_file(replayed: StreamJob, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    add_file(folder, "1.csv", "what,is,this\nx,y,z\n")
    add_file(folder, "2.parquet", pl.read_parquet(replay_of(replayed).paths[0]))
    job = watching_folder(replayed, folder, skip_bad_files=True)
    counts = run_stream(job, stop_when(job, lambda numbers: numbers.counts.series_steps > 0)).counts
    assert (counts.rows_in, counts.bad_files, counts.missing) == (60, 1, 0)
    assert read_quarantine(job.output)["row"].to_list() == [0]


def test_starting_from_a_missing_state_table_is_refused(replayed: StreamJob, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no state table"):
        run_stream(replace(replayed, state_table=tmp_path / "nowhere"))


def test_a_stream_refuses_an_output_folder_below_a_file(replayed: StreamJob, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a file, not a folder"):
        run_stream(replace(replayed, output=tmp_path / "rows.parquet" / "out"))


def test_a_second_job_on_an_output_folder_is_refused(replayed: StreamJob, job: BackfillJob) -> None:
    with store_of(replayed.output).locked():
        for run in (lambda: run_stream(replayed), lambda: run_backfill(job)):
            with pytest.raises(
                OutputError, match=r"out: another job, process \d+ .*is writing here"
            ) as raised:
                run()
            assert "\n" not in str(raised.value)
    assert run_stream(replayed).counts.used == 60


def test_fresh_stream_ignores_old_state_and_rereads_the_folder(replayed: StreamJob, tmp_path: Path) -> None:
    add_file(tmp_path / "in", "1.parquet", pl.read_parquet(replay_of(replayed).paths[0]))
    job = replace(watching_folder(replayed, tmp_path / "in"), fresh=True)
    for _ in range(2):
        outcome = run_stream(job, stop_when(job, lambda numbers: numbers.counts.series_steps > 0))
        assert (outcome.counts.rows_in, outcome.counts.used, outcome.counts.pending) == (60, 57, 3)


def test_pending_rows_are_restored_from_a_state_table(replayed: StreamJob, tmp_path: Path) -> None:
    add_file(tmp_path / "in", "1.parquet", pl.read_parquet(replay_of(replayed).paths[0]))
    job = watching_folder(replayed, tmp_path / "in")
    run_stream(job, stop_when(job, lambda numbers: numbers.counts.series_steps > 0))
    rows_of(Windows(("a",), START + 20, np.ones((2, 1)))).write_parquet(tmp_path / "rest.parquet")
    rest = replace(replay_job(tmp_path / "rest", tmp_path / "rest.parquet"), state_table=job.states, shards=3)
    counts = run_stream(rest).counts
    assert (counts.rows_in, counts.restored, counts.used, counts.missing) == (2, 3, 5, 0)
    assert len(read_forecasts(rest.output)) == 3 * 3
