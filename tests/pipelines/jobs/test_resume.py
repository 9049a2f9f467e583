"""A stream that was stopped or killed goes on by the same command, and ends as if it had not been."""

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
from tests.fleets import forecaster
from tests.outputs import contents
from tests.pipelines.jobs.replays import breaking, stopping
from tests.same import assert_same_frames
from tests.stores import on_disk

UNITS = {"a": 1.0, "b": 1.0, "c": 1.0}


def assert_whole(job: StreamJob, counts: Counts, whole: pl.DataFrame) -> None:
    """Forecasts and counts are those of a stream that nothing interrupted, each forecast in one file."""
    assert counts == Counts(rows_in=60, used=60, series_steps=60, windows=20)
    assert_same_frames(read_forecasts(job.output), whole, UNITS)
    files = [
        path for path in on_disk(job.output / "forecasts").iterdir() if job.forecaster.version in path.name
    ]
    rows = [len(pl.read_parquet(f) if f.suffix == ".parquet" else pl.read_ndjson(f)) for f in files]
    assert sum(rows) == 60


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
def test_a_stream_that_was_stopped_goes_on_by_the_same_command(
    replayed: StreamJob, whole: pl.DataFrame, format_: Format
) -> None:
    job = replace(replayed, format=format_, resume=True)  # where there is no table, it starts
    stopped = run_stream(stopping(job, 30))
    assert stopped.stopped
    assert stopped.counts.rows_in == 36
    assert stopped.counts.missing == 0
    assert_whole(job, run_stream(job).counts, whole)


def test_a_stream_that_was_stopped_goes_on_on_another_engine(
    replayed: StreamJob, whole: pl.DataFrame, runner: Runner
) -> None:
    run_stream(stopping(replace(replayed, runner=runner), 30))
    job = replace(replayed, resume=True, runner="prism" if runner == "in-process" else "in-process")
    if job.runner == runner:
        pytest.skip("the other way round")
    assert_whole(job, run_stream(job).counts, whole)


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
@pytest.mark.parametrize("at", [1, 30, 40, 55])
@pytest.mark.parametrize("every_s", [1e-9, 1e9])
def test_a_stream_that_was_killed_goes_on_by_the_same_command(
    replayed: StreamJob, whole: pl.DataFrame, format_: Format, at: int, every_s: float
) -> None:
    job = replace(replayed, format=format_, resume=True)
    for _ in range(2):
        with pytest.raises(DataError, match="the cable was pulled"):
            run_stream(breaking(job, at, every_s))
    assert_whole(job, run_stream(job).counts, whole)


@pytest.mark.prism
def test_a_stream_that_was_killed_on_prism_goes_on_by_the_same_command(
    replayed: StreamJob, whole: pl.DataFrame
) -> None:
    job = replace(replayed, resume=True, runner="prism")
    with pytest.raises(DataError, match="the cable was pulled"):
        run_stream(breaking(job, 40))
    assert_whole(job, run_stream(job).counts, whole)


def apart(job: StreamJob) -> None:
    """Leaves a table as a kill does: one shard's snapshot is older than the others'."""
    run_stream(stopping(job, 10))
    older = job.states / "shard-0001-of-0002.parquet"
    data = older.read_bytes()
    run_stream(stopping(replace(job, resume=True), 30))
    older.write_bytes(data)
    table = state_table.read(job.states)
    assert [shard.offsets["replay"] for shard in table.shards] == [36, 18]


def test_shards_whose_snapshots_are_of_several_moments_go_on_together(
    replayed: StreamJob, whole: pl.DataFrame
) -> None:
    apart(replayed)
    assert_whole(replayed, run_stream(replace(replayed, resume=True)).counts, whole)


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_another_number_of_shards_is_cut_anew_after_a_clean_stop(
    replayed: StreamJob, whole: pl.DataFrame, shards: int
) -> None:
    run_stream(stopping(replayed, 30))
    job = replace(replayed, shards=shards, resume=True)
    assert_whole(job, run_stream(job).counts, whole)
    assert len(list(job.states.glob("*.parquet"))) == shards


def test_another_number_of_shards_is_refused_after_a_kill_with_the_line_that_says_how(
    replayed: StreamJob, whole: pl.DataFrame
) -> None:
    apart(replayed)
    before = contents(replayed.output)
    with pytest.raises(DataError, match=r"killed: go on with --resume and 2 shards, end that job") as told:
        run_stream(replace(replayed, shards=3, resume=True))
    assert "\n" not in str(told.value)
    assert contents(replayed.output) == before
    run_stream(stopping(replace(replayed, resume=True), 40))
    job = replace(replayed, shards=3, resume=True)
    assert_whole(job, run_stream(job).counts, whole)


def test_a_stream_begins_over_an_earlier_one_only_when_it_is_told_to(
    replayed: StreamJob, whole: pl.DataFrame
) -> None:
    run_stream(stopping(replayed, 30))
    before = contents(replayed.states)
    for state in (None, replayed.states):  # naming the stream's own table loses its place in the log, too
        with pytest.raises(ConfigError, match=r"out/state: holds the state .*--resume.*--fresh") as told:
            run_stream(replace(replayed, state_table=state))
        assert "\n" not in str(told.value)
        assert contents(replayed.states) == before
    assert_whole(replayed, run_stream(replace(replayed, resume=True)).counts, whole)


def test_a_fresh_stream_keeps_the_state_that_was_there(replayed: StreamJob, whole: pl.DataFrame) -> None:
    run_stream(stopping(replayed, 30))
    before = contents(replayed.states)
    fresh = replace(replayed, fresh=True)
    assert_whole(replayed, run_stream(fresh).counts, whole)
    (aside,) = on_disk(replayed.output).glob("state-before-*")
    assert contents(aside) == before
    assert state_table.read(aside).offset("replay") < state_table.read(replayed.states).offset("replay")
    run_stream(fresh)
    assert len([*on_disk(replayed.output).glob("state-before-*")]) == 2
    assert contents(aside) == before


def test_a_fresh_stream_can_be_stopped_and_resumed(replayed: StreamJob, whole: pl.DataFrame) -> None:
    run_stream(stopping(replayed, 30))
    run_stream(stopping(replace(replayed, fresh=True), 20))
    assert_whole(replayed, run_stream(replace(replayed, resume=True)).counts, whole)


def test_files_that_are_not_those_of_the_replay_are_refused_when_it_goes_on(
    replayed: StreamJob, tmp_path: Path
) -> None:
    run_stream(stopping(replayed, 30))
    before = contents(replayed.states)
    pl.read_parquet(tmp_path / "rows.parquet").head(50).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet: the files are not those .* begun with") as told:
        run_stream(replace(replayed, resume=True))
    assert "\n" not in str(told.value)
    assert contents(replayed.states) == before
    assert run_stream(replace(replayed, fresh=True)).counts.used == 50


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
def test_two_models_write_into_one_folder_and_neither_loses_a_forecast(
    replayed: StreamJob, whole: pl.DataFrame, format_: Format
) -> None:
    first = replace(replayed, format=format_)
    second = replace(first, forecaster=forecaster(seed=1), resume=True)
    run_stream(first)
    shutil.rmtree(on_disk(first.states))  # the second begins cold, where the first one's files are
    with pytest.raises(DataError, match="the cable was pulled"):
        run_stream(breaking(second, 40))
    run_stream(second)
    both = read_forecasts(first.output)
    assert sorted(both["model_version"].unique()) == sorted(
        {first.forecaster.version, second.forecaster.version}
    )
    assert len(both) == 120
    assert_same_frames(both.filter(pl.col("model_version") == first.forecaster.version), whole, UNITS)
