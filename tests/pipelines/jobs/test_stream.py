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
from pipelines.sinks.folder import locked
from pipelines.sinks.numbers import JobNumbers
from pipelines.state import state_table
from schemas.errors import DataError, OutputError
from tests.fleets import START, rows_of
from tests.outputs import contents, hidden
from tests.pipelines.jobs.replays import into, put, replay_of, stop_when, watching


def test_a_replay_streams_to_its_end_and_a_rerun_writes_the_same_files(
    replayed: StreamJob, runner: Runner
) -> None:
    job, told = replace(replayed, runner=runner), list[JobNumbers]()
    outcome = run_stream(job, told.append)
    assert outcome.counts == Counts(rows_in=60, used=60, series_steps=60, windows=20)
    assert not outcome.stopped
    assert told[-1].counts == outcome.counts
    assert not outcome.has_latency  # there is only a backlog
    assert len(read_forecasts(job.output)) == 60
    table = state_table.read(job.states)
    assert table.closed_through == START + 19
    assert table.offset("replay") == 60
    assert not hidden(job.output)

    before = contents(job.output / "forecasts")
    run_stream(replace(job, fresh=True))
    assert contents(job.output / "forecasts") == before


def test_a_replay_that_is_over_is_resumed_to_nothing_and_keeps_state_and_counts(
    replayed: StreamJob, runner: Runner
) -> None:
    first = run_stream(replayed)
    before = state_table.read(replayed.states)
    outcome = run_stream(replace(replayed, resume=True, runner=runner))
    assert outcome.counts == first.counts
    after = state_table.read(replayed.states)
    assert after.offset("replay") == before.offset("replay") == 60
    assert after.closed_through == before.closed_through
    assert sorted(after.state.series_ids) == ["a", "b", "c"]


def test_a_paced_replay_tells_its_latency(replayed: StreamJob, runner: Runner) -> None:
    source = replace(replay_of(replayed), speed=3600.0 * 20)
    outcome = run_stream(replace(replayed, source=source, runner=runner))
    assert outcome.counts == Counts(rows_in=60, used=60, series_steps=60, windows=20)
    assert outcome.has_latency  # one a batch and shard
    assert 0 < outcome.latency_ms(0.5) <= outcome.latency_ms(0.99)
    assert outcome.as_json()["p99_ms"] == outcome.latency_ms(0.99)


def test_a_watched_folder_that_is_empty_at_first_is_waited_for(
    replayed: StreamJob, tmp_path: Path, runner: Runner
) -> None:
    folder, looks = tmp_path / "in", 0
    folder.mkdir()
    job = watching(replace(replayed, runner=runner), folder)

    def arrived(numbers: JobNumbers) -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:  # nothing for more than a second, which an ended source would not outlast
            put(folder, "rows.parquet", pl.read_parquet(replay_of(replayed).paths[0]))
        return numbers.counts.series_steps > 0

    outcome = run_stream(job, stop_when(job, arrived))
    assert looks > 3
    assert outcome.stopped
    assert outcome.counts.rows_in == 60
    assert outcome.counts.pending == 3  # the newest window stays open
    assert outcome.counts.missing == 0
    assert not job.stop_file.exists()


def test_a_bad_file_ends_the_stream_in_one_line_and_the_table_stays(
    replayed: StreamJob, tmp_path: Path, runner: Runner
) -> None:
    folder = tmp_path / "in"
    put(folder, "1.parquet", pl.read_parquet(replay_of(replayed).paths[0]))
    job = watching(replayed, folder)
    run_stream(job, stop_when(job, lambda numbers: numbers.counts.series_steps > 0))
    before = contents(job.states)
    put(folder, "2.csv", "what,is,this\nx,y,z\n")
    with pytest.raises(DataError, match=r"2\.csv: no column") as told:
        run_stream(replace(job, resume=True, runner=runner))
    assert "\n" not in str(told.value)
    assert contents(job.states) == before


def test_a_bad_file_is_quarantined_and_the_stream_goes_on_where_that_is_asked_for(
    replayed: StreamJob, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    put(folder, "1.csv", "what,is,this\nx,y,z\n")
    put(folder, "2.parquet", pl.read_parquet(replay_of(replayed).paths[0]))
    job = watching(replayed, folder, skip_bad_files=True)
    counts = run_stream(job, stop_when(job, lambda numbers: numbers.counts.series_steps > 0)).counts
    assert (counts.rows_in, counts.bad_files, counts.missing) == (60, 1, 0)
    assert read_quarantine(job.output)["row"].to_list() == [0]


def test_a_state_table_that_is_not_there_is_said_at_once(replayed: StreamJob, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no state table"):
        run_stream(replace(replayed, state_table=tmp_path / "nowhere"))


def test_an_output_folder_that_cannot_be_is_said_at_once(replayed: StreamJob, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a file, not a folder"):
        run_stream(replace(replayed, output=tmp_path / "rows.parquet" / "out"))


def test_a_second_job_on_a_folder_is_refused_in_one_line(replayed: StreamJob, job: BackfillJob) -> None:
    with locked(replayed.output):
        for run in (lambda: run_stream(replayed), lambda: run_backfill(job)):
            with pytest.raises(OutputError, match=r"out: another job, process \d+ .*is writing here") as told:
                run()
            assert "\n" not in str(told.value)
    assert run_stream(replayed).counts.used == 60


def test_a_watched_folder_is_read_anew_by_a_stream_that_begins_anew(
    replayed: StreamJob, tmp_path: Path
) -> None:
    put(tmp_path / "in", "1.parquet", pl.read_parquet(replay_of(replayed).paths[0]))
    job = replace(watching(replayed, tmp_path / "in"), fresh=True)
    for _ in range(2):
        outcome = run_stream(job, stop_when(job, lambda numbers: numbers.counts.series_steps > 0))
        assert (outcome.counts.rows_in, outcome.counts.used, outcome.counts.pending) == (60, 57, 3)


def test_rows_that_waited_are_handed_over_by_a_table(replayed: StreamJob, tmp_path: Path) -> None:
    put(tmp_path / "in", "1.parquet", pl.read_parquet(replay_of(replayed).paths[0]))
    job = watching(replayed, tmp_path / "in")
    run_stream(job, stop_when(job, lambda numbers: numbers.counts.series_steps > 0))
    rows_of(Windows(("a",), START + 20, np.ones((2, 1)))).write_parquet(tmp_path / "rest.parquet")
    rest = replace(into(tmp_path / "rest", tmp_path / "rest.parquet"), state_table=job.states, shards=3)
    counts = run_stream(rest).counts
    assert (counts.rows_in, counts.restored, counts.used, counts.missing) == (2, 3, 5, 0)
    assert len(read_forecasts(rest.output)) == 3 * 3
