"""Tests that a stopped or failed stream resumes, and then has the results of an uninterrupted stream."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from forecaster.shards.counts import Counts
from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import Runner, StreamJob
from pipelines.sinks.files import Format, read_forecasts
from pipelines.state import state_table
from schemas.errors import ConfigError, DataError
from tests.comparisons import assert_same_frames
from tests.fleets import forecaster
from tests.outputs import contents
from tests.pipelines.jobs.replays import failing_at, stopped_at
from tests.stores import on_disk

UNITS = {"a": 1.0, "b": 1.0, "c": 1.0}


def assert_complete(job: StreamJob, counts: Counts, uninterrupted: pl.DataFrame) -> None:
    """Assert that a stream has the counts and forecasts of an uninterrupted stream, and no forecast twice."""
    assert counts == Counts(rows_in=60, used=60, series_steps=60, windows=20)
    assert_same_frames(read_forecasts(job.output), uninterrupted, UNITS)
    files = [
        path for path in on_disk(job.output / "forecasts").iterdir() if job.forecaster.version in path.name
    ]
    rows = [len(pl.read_parquet(f) if f.suffix == ".parquet" else pl.read_ndjson(f)) for f in files]
    assert sum(rows) == 60


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
def test_a_stopped_stream_resumes_when_its_job_runs_again(
    replayed: StreamJob, uninterrupted: pl.DataFrame, format_: Format
) -> None:
    # There is no state table yet, so the first run starts from the first row.
    job = replace(replayed, format=format_, resume=True)
    stopped = run_stream(stopped_at(job, 30))
    assert stopped.stopped
    assert stopped.counts.rows_in == 36
    assert stopped.counts.missing == 0
    assert_complete(job, run_stream(job).counts, uninterrupted)


def test_a_stopped_stream_resumes_on_another_runner(
    replayed: StreamJob, uninterrupted: pl.DataFrame, runner: Runner
) -> None:
    run_stream(stopped_at(replace(replayed, runner=runner), 30))
    job = replace(replayed, resume=True, runner="prism" if runner == "in-process" else "in-process")
    if job.runner == runner:
        pytest.skip("the same engine")
    assert_complete(job, run_stream(job).counts, uninterrupted)


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
@pytest.mark.parametrize("at", [1, 30, 40, 55])
@pytest.mark.parametrize("every_s", [1e-9, 1e9])
def test_a_failed_stream_resumes_by_the_same_command(
    replayed: StreamJob, uninterrupted: pl.DataFrame, format_: Format, at: int, every_s: float
) -> None:
    job = replace(replayed, format=format_, resume=True)
    for _ in range(2):
        with pytest.raises(DataError, match="the source failed on purpose"):
            run_stream(failing_at(job, at, every_s))
    assert_complete(job, run_stream(job).counts, uninterrupted)


@pytest.mark.prism
def test_a_stream_that_failed_on_prism_resumes(replayed: StreamJob, uninterrupted: pl.DataFrame) -> None:
    job = replace(replayed, resume=True, runner="prism")
    with pytest.raises(DataError, match="the source failed on purpose"):
        run_stream(failing_at(job, 40))
    assert_complete(job, run_stream(job).counts, uninterrupted)


def leave_shards_at_different_offsets(job: StreamJob) -> None:
    """Write a state table in which the snapshot of shard 1 is older than that of shard 0, as after a kill."""
    run_stream(stopped_at(job, 10))
    older = job.states / "shard-0001-of-0002.parquet"
    data = older.read_bytes()
    run_stream(stopped_at(replace(job, resume=True), 30))
    older.write_bytes(data)
    table = state_table.read(job.states)
    assert [shard.offsets["replay"] for shard in table.shards] == [36, 18]


def test_shards_resume_from_snapshots_of_different_ages(
    replayed: StreamJob, uninterrupted: pl.DataFrame
) -> None:
    leave_shards_at_different_offsets(replayed)
    assert_complete(replayed, run_stream(replace(replayed, resume=True)).counts, uninterrupted)


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_the_shard_count_may_change_after_a_stop(
    replayed: StreamJob, uninterrupted: pl.DataFrame, shards: int
) -> None:
    run_stream(stopped_at(replayed, 30))
    job = replace(replayed, shards=shards, resume=True)
    assert_complete(job, run_stream(job).counts, uninterrupted)
    assert len(list(job.states.glob("*.parquet"))) == shards


def test_resume_refuses_a_changed_shard_count_if_offsets_differ(
    replayed: StreamJob, uninterrupted: pl.DataFrame
) -> None:
    leave_shards_at_different_offsets(replayed)
    before = contents(replayed.output)
    with pytest.raises(DataError, match=r"killed: run a job with --resume and 2 shards, end it") as raised:
        run_stream(replace(replayed, shards=3, resume=True))
    assert "\n" not in str(raised.value)
    assert contents(replayed.output) == before
    run_stream(stopped_at(replace(replayed, resume=True), 40))
    job = replace(replayed, shards=3, resume=True)
    assert_complete(job, run_stream(job).counts, uninterrupted)


def test_a_stream_into_a_used_output_requires_resume_or_fresh(
    replayed: StreamJob, uninterrupted: pl.DataFrame
) -> None:
    run_stream(stopped_at(replayed, 30))
    before = contents(replayed.states)
    # Without --resume, a stream would lose the offsets in its state table, even if it starts from this table.
    for state in (None, replayed.states):
        with pytest.raises(ConfigError, match=r"out/state: holds the state .*--resume.*--fresh") as raised:
            run_stream(replace(replayed, state_table=state))
        assert "\n" not in str(raised.value)
        assert contents(replayed.states) == before
    assert_complete(replayed, run_stream(replace(replayed, resume=True)).counts, uninterrupted)


def test_a_stream_started_fresh_copies_the_earlier_state_table(
    replayed: StreamJob, uninterrupted: pl.DataFrame
) -> None:
    run_stream(stopped_at(replayed, 30))
    before = contents(replayed.states)
    fresh = replace(replayed, fresh=True)
    assert_complete(replayed, run_stream(fresh).counts, uninterrupted)
    (aside,) = on_disk(replayed.output).glob("state-before-*")
    assert contents(aside) == before
    assert state_table.read(aside).offset("replay") < state_table.read(replayed.states).offset("replay")
    run_stream(fresh)
    assert len([*on_disk(replayed.output).glob("state-before-*")]) == 2
    assert contents(aside) == before


def test_a_stream_started_with_fresh_can_be_resumed(replayed: StreamJob, uninterrupted: pl.DataFrame) -> None:
    run_stream(stopped_at(replayed, 30))
    run_stream(stopped_at(replace(replayed, fresh=True), 20))
    assert_complete(replayed, run_stream(replace(replayed, resume=True)).counts, uninterrupted)


def test_resume_refuses_input_files_that_have_changed(replayed: StreamJob, tmp_path: Path) -> None:
    run_stream(stopped_at(replayed, 30))
    before = contents(replayed.states)
    pl.read_parquet(tmp_path / "rows.parquet").head(50).write_parquet(tmp_path / "rows.parquet")
    changed = r"rows\.parquet: the files differ from those .* began with"
    with pytest.raises(DataError, match=changed) as raised:
        run_stream(replace(replayed, resume=True))
    assert "\n" not in str(raised.value)
    assert contents(replayed.states) == before
    assert run_stream(replace(replayed, fresh=True)).counts.used == 50


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
def test_second_model_in_an_output_folder_loses_no_forecasts(
    replayed: StreamJob, uninterrupted: pl.DataFrame, format_: Format
) -> None:
    first = replace(replayed, format=format_)
    second = replace(first, forecaster=forecaster(seed=1), resume=True)
    run_stream(first)
    # The second model starts with an empty state, but writes to the output folder of the first.
    shutil.rmtree(on_disk(first.states))
    with pytest.raises(DataError, match="the source failed on purpose"):
        run_stream(failing_at(second, 40))
    run_stream(second)
    both = read_forecasts(first.output)
    assert sorted(both["model_version"].unique()) == sorted(
        {first.forecaster.version, second.forecaster.version}
    )
    assert len(both) == 120
    assert_same_frames(both.filter(pl.col("model_version") == first.forecaster.version), uninterrupted, UNITS)
