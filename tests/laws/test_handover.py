"""Law: if a second job continues from the state of a first job, both together give one job's outputs.

The jobs are two backfills, a backfill and a stream, or a stream that is stopped and resumed.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.model import Forecaster
from forecaster.shards.batch import Batch
from forecaster.shards.sharding import add_partitions, empty_batch, hand_over_shards, reshard
from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, StreamJob
from pipelines.sinks.files import read_forecasts, read_late
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.base import Source, Step
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.folder import FolderSource
from pipelines.sources.reader import request_stop
from pipelines.sources.replay import ReplaySource
from pipelines.state import state_table
from pipelines.storage import Location
from schemas.forecasts import IDENTITY
from tests.comparisons import (
    YOUNG,
    assert_same,
    assert_same_frames,
    assert_same_live_series,
    assert_same_state,
    by_key,
    exploded,
)
from tests.fleets import HOUR, HOUR_US, SHORT_WEEK, START, forecaster, rows_of, scales
from tests.folds import Arrival, batches_of, fold, fold_on
from tests.partitions import LONG_GAP, Logs, all_logs, cut, interleaved

MODEL = forecaster(allowed_lateness="2h")
ALL_ROWS = Input(Columns())
SHARDS = st.tuples(st.integers(1, 5), st.integers(1, 5))  # how many shards the first and the second job have


@pytest.fixture(scope="module")
def whole(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output folder of one backfill over all rows."""
    output = tmp_path_factory.mktemp("whole")
    run_backfill(BackfillJob(MODEL, (str(small_file),), ALL_ROWS, output))
    return output


def assert_same_state_tables(one: Location, other: Location) -> None:
    """Assert that the state tables in two output folders have equal states and closed windows."""
    a, b = (state_table.read(output / "state") for output in (one, other))
    assert a.closed_through == b.closed_through
    assert_same_state(a.state, b.state)


@pytest.mark.parametrize("max_gap", [3, LONG_GAP])
@settings(max_examples=8)
@given(logs=all_logs(), shards=SHARDS, data=st.data())
def test_two_successive_jobs_over_one_log_match_one_job(
    max_gap: int, logs: Logs, shards: tuple[int, int], data: st.DataObject
) -> None:
    assert_same_as_one_job(forecaster(max_gap=max_gap, **SHORT_WEEK), logs, shards, data, is_new_log=False)


# Each log has only one partition, because the law may fail for duplicates in different partitions. Of
# such duplicates, the row with the larger offset counts. In the second log, the offsets begin at 0 again,
# so the two jobs could use a different duplicate than the single job.
@pytest.mark.parametrize("max_gap", [3, LONG_GAP])
@settings(max_examples=8)
@given(
    logs=all_logs(partitions=1),
    shards=SHARDS,
    data=st.data(),
)
def test_two_jobs_over_consecutive_logs_match_one_job(
    max_gap: int, logs: Logs, shards: tuple[int, int], data: st.DataObject
) -> None:
    assert_same_as_one_job(forecaster(max_gap=max_gap, **SHORT_WEEK), logs, shards, data, is_new_log=True)


def assert_same_as_one_job(
    model: Forecaster, logs: Logs, shards: tuple[int, int], data: st.DataObject, is_new_log: bool
) -> None:
    """Assert that two consecutive jobs together give the outputs of one job.

    The second job starts from the shards of the first job, and reads the batches that the first job has not
    read. With ``is_new_log``, the second job reads them as new logs with offsets that begin at 0.
    """
    order = interleaved(data.draw, [cut(data.draw, log) for log in logs.parts])
    whole = fold(model, order, 1, partitions=logs.partitions)

    at = data.draw(st.integers(0, len(order)))
    first = fold(model, order[:at], shards[0], partitions=logs.partitions)
    # ``reached`` has the offset that the first job has reached in each partition.
    reached = dict.fromkeys(logs.partitions, 0) | {batch.partition: batch.stop for batch in order[:at]}
    begins = dict.fromkeys(reached, 0) if is_new_log else reached
    second_shards = [
        add_partitions(shard, begins) for shard in hand_over_shards(reshard(first.shards, shards[1]))
    ]
    watermarks = [
        replace(empty_batch(name, begin), watermark_us=first.shards[0].watermarks[name])
        for name, begin in begins.items()
    ]
    rest = [as_new_log(batch, reached[batch.partition]) if is_new_log else batch for batch in order[at:]]
    second = fold_on(model, second_shards, [[*watermarks, *rest]] * shards[1])

    assert second.counts.restored == first.counts.pending
    assert first.counts.missing == second.counts.missing == 0
    for name in ("rows_in", "used", "duplicates", "late", "outside", "bad_files", "series_steps"):
        parts = getattr(first.counts, name) + getattr(second.counts, name)
        assert parts == getattr(whole.counts, name), name
    together = first.forecasts + second.forecasts
    assert_same(by_key(whole.forecasts), by_key(together), logs.scale, within=YOUNG)
    assert_same_live_series(whole.states, second.states)


def as_new_log(batch: Batch, begin: int) -> Batch:
    """Return a batch with ``begin`` subtracted from its offsets, so that offset ``begin`` becomes 0."""
    rows, rejected = (f.with_columns(pl.col("offset") - begin) for f in (batch.rows, batch.rejected))
    return replace(batch, start=batch.start - begin, stop=batch.stop - begin, rows=rows, rejected=rejected)


@pytest.mark.prism
def test_a_stream_continues_from_the_state_of_a_backfill(
    small_fleet: Windows, small_file: Path, whole: Path, tmp_path: Path
) -> None:
    t_us = (START + 55) * HOUR_US
    before, after = Input(Columns(), end_us=t_us), Input(Columns(), start_us=t_us)
    first = run_backfill(BackfillJob(MODEL, (str(small_file),), before, tmp_path / "a", shards=5))
    source = ReplaySource((str(small_file),), after, HOUR, lateness_s=7200)
    second = run_stream(
        StreamJob(MODEL, source, tmp_path / "b", shards=2, state_table=tmp_path / "a" / "state")
    )

    assert first.counts.missing == second.counts.missing == 0
    assert first.counts.rows_in == second.counts.outside
    assert first.counts.outside == second.counts.rows_in == second.counts.used
    together = pl.concat([read_forecasts(tmp_path / "a"), read_forecasts(tmp_path / "b")])
    assert_same_frames(read_forecasts(whole), together, scales(small_fleet))
    assert_same_state_tables(whole, tmp_path / "b")


def test_two_consecutive_backfills_give_the_outputs_of_one(
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
    assert_same_state_tables(whole, tmp_path / "1")


def test_rows_of_windows_closed_by_an_earlier_job_are_late(
    small_file: Path, whole: Path, tmp_path: Path
) -> None:
    # Write a state table with a pending row, as a stopped stream does.
    pending = rows_of(Windows(("series 1",), START + 121, np.ones((1, 1))))
    batch = batches_of([Arrival(pending, (START + 120) * HOUR_US)])[0]
    table = state_table.read(whole / "state")
    shards = fold_on(MODEL, hand_over_shards(table.shards), [[batch]] * len(table.shards)).shards
    state_table.write(tmp_path / "state", shards)
    old = Input(Columns(), end_us=(START + 20) * HOUR_US)
    job = StreamJob(
        MODEL,
        ReplaySource((str(small_file),), old, HOUR),
        tmp_path / "out",
        state_table=tmp_path / "state",
        runner="in-process",
    )

    counts = run_stream(job).counts
    assert counts.late == counts.rows_in == len(read_late(job.output)) > 0
    assert counts.restored == counts.pending == 1
    assert counts.missing == 0
    assert not list((job.output / "forecasts").glob("*"))
    assert_same_state_tables(whole, job.output)
    assert state_table.read(job.states).pending.select(pending.columns).equals(pending)


@dataclass(frozen=True)
class StoppingSource:
    """A source that wraps another one; from the offset ``at`` on, it requests a stop and returns no rows."""

    source: Source
    at: int
    stop_file: Location
    partition: str = "replay"
    is_paced: bool = False

    def step(self, offset: int) -> Step[int] | None:
        """Return the step of the wrapped source; from offset ``at`` on, request a stop and return no rows."""
        if offset >= self.at:
            request_stop(self.stop_file)
            return Step((), offset)
        return self.source.step(offset)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_stopped_and_resumed_stream_has_the_outputs_of_one_backfill(
    share: float, small_fleet: Windows, small_file: Path, whole: Path, tmp_path: Path
) -> None:
    output, rows = tmp_path / "out", len(rows_of(small_fleet))
    source = ReplaySource((str(small_file),), ALL_ROWS, HOUR, 7200, windows_per_step=4)
    job = StreamJob(MODEL, source, output, shards=3, resume=True, runner="in-process")
    at = int(share * rows)
    stopped = run_stream(replace(job, source=StoppingSource(source, at, job.stop_file)))

    # Rows of windows that are still open when the stream stops are pending: no forecast is based on them.
    assert stopped.stopped
    assert stopped.counts.missing == 0
    assert stopped.counts.rows_in >= at
    table = state_table.read(job.states)
    assert stopped.counts.pending == len(table.pending)
    if share:
        before = read_forecasts(output)
        assert table.closed_through is not None
        issued_us = before.select(pl.col("issued_at").dt.epoch("us").max()).item()
        assert issued_us == (table.closed_through + 1) * HOUR_US
        hours = table.pending.select(pl.col("timestamp").dt.epoch("us") // HOUR_US).to_series()
        assert set(hours) == {table.closed_through + 1, table.closed_through + 2}

    # Resume with another number of shards. The counts of this run include the counts of the stopped run.
    resumed = run_stream(replace(job, shards=2))
    assert not resumed.stopped
    assert resumed.counts.used == resumed.counts.rows_in == rows
    assert resumed.counts.missing == resumed.counts.late == resumed.counts.pending == 0
    assert_same_frames(read_forecasts(whole), read_forecasts(output), scales(small_fleet))
    assert_same_state_tables(whole, output)
    files = sorted((output / "forecasts").iterdir())
    forecasts = pl.concat([pl.read_parquet(file) for file in files])
    assert forecasts.select(pl.struct(IDENTITY).is_unique().all()).item()
    if share:  # the forecasts that the stopped run wrote must stay exactly equal
        unchanged = read_forecasts(output).join(before, on=IDENTITY, how="semi")
        assert exploded(unchanged.sort(IDENTITY)).equals(exploded(before.sort(IDENTITY)))


def test_stops_between_watched_files_do_not_change_the_forecasts(
    small_fleet: Windows, whole: Path, tmp_path: Path
) -> None:
    incoming, output = tmp_path / "in", tmp_path / "out"
    incoming.mkdir()
    rows = rows_of(small_fleet)
    window = pl.col("timestamp").dt.epoch("us") // HOUR_US - START
    source = FolderSource(incoming, ALL_ROWS, output / "state", lateness_s=7200, poll_s=0.02)
    job = StreamJob(MODEL, source, output, shards=2, resume=True, runner="in-process")
    read, deadline_s = 0, time.time() + 120
    for first, stop in ((0, 30), (30, 31), (31, 120)):
        part = rows.filter(window.is_between(first, stop - 1))
        path = incoming / f"{stop:03}.parquet"
        part.write_parquet(path)
        os.utime(path, (time.time() - 60, time.time() - 60))
        read += len(part)

        def stop_when_read(numbers: JobNumbers, read: int = read) -> None:
            if numbers.counts.rows_in == read or time.time() > deadline_s:
                request_stop(job.stop_file)

        counts = run_stream(job, stop_when_read).counts
        assert counts.missing == counts.late == 0
        assert counts.rows_in == read
    # The watermark is two hours behind the newest row, so rows of the last three windows are still pending.
    assert counts.used + len(state_table.read(output / "state").pending) == len(rows)
    expected = read_forecasts(whole).filter(pl.col("issued_at").dt.epoch("us") <= (START + 117) * HOUR_US)
    assert_same_frames(expected, read_forecasts(output), scales(small_fleet))
