"""Law: backfill to time t, then stream from t = one run over everything; so is a stream that was stopped."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.batch import Batch
from forecaster.model import Forecaster
from forecaster.sharding import announced, handed_over, no_batch, reshard
from forecaster.windows import Windows
from pipelines import state_table
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, StreamJob
from pipelines.sinks.files import read_forecasts, read_late
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.base import Source, Step
from pipelines.sources.files import Input
from pipelines.sources.folder import FolderSource
from pipelines.sources.reader import ask_to_stop
from pipelines.sources.replay import ReplaySource
from pipelines.sources.tables import Columns
from pipelines.storage import Location
from schemas.forecasts import IDENTITY
from tests.fleets import HOUR, HOUR_US, SHORT_WEEK, START, forecaster, rows_of, scales
from tests.folds import Arrival, batches_of, fold, fold_on
from tests.partitions import LONG_GAP, Logs, all_logs, cut, interleaved
from tests.same import (
    YOUNG,
    assert_same,
    assert_same_frames,
    assert_same_lives,
    assert_same_state,
    by_key,
    nested,
)

MODEL = forecaster(allowed_lateness="2h")
EVERYTHING = Input(Columns())


@pytest.fixture(scope="module")
def whole(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one backfill over everything."""
    output = tmp_path_factory.mktemp("whole")
    run_backfill(BackfillJob(MODEL, (str(small_file),), EVERYTHING, output))
    return output


def assert_same_ends(one: Location, other: Location) -> None:
    """The state tables of two outputs are the same."""
    a, b = (state_table.read(output / "state") for output in (one, other))
    assert a.closed_through == b.closed_through
    assert_same_state(a.state, b.state)


@pytest.mark.parametrize("max_gap", [3, LONG_GAP])
@given(logs=all_logs(), shards=st.tuples(st.integers(1, 5), st.integers(1, 5)), data=st.data())
def test_folded_to_a_time_and_handed_over_to_the_same_log_is_one_fold(
    max_gap: int, logs: Logs, shards: tuple[int, int], data: st.DataObject
) -> None:
    assert_one_fold(forecaster(max_gap=max_gap, **SHORT_WEEK), logs, shards, data, is_new_log=False)


# Of one partition: the offsets of several new logs say nothing of how the old ones lay to each other.
@pytest.mark.parametrize("max_gap", [3, LONG_GAP])
@given(logs=all_logs(partitions=1), shards=st.tuples(st.integers(1, 5), st.integers(1, 5)), data=st.data())
def test_folded_to_a_time_and_handed_over_to_a_new_log_is_one_fold(
    max_gap: int, logs: Logs, shards: tuple[int, int], data: st.DataObject
) -> None:
    assert_one_fold(forecaster(max_gap=max_gap, **SHORT_WEEK), logs, shards, data, is_new_log=True)


def assert_one_fold(
    model: Forecaster, logs: Logs, shards: tuple[int, int], data: st.DataObject, is_new_log: bool
) -> None:
    """Assert that a fold to any place, handed over to a job with the rest of the logs, is one fold.

    With ``is_new_log`` the second job reads the rest as logs of their own, from offset 0 on.
    """
    order = interleaved(data.draw, [cut(data.draw, log) for log in logs.parts])
    whole = fold(model, order, 1, partitions=logs.partitions)

    at = data.draw(st.integers(0, len(order)))
    first = fold(model, order[:at], shards[0], partitions=logs.partitions)
    # Each partition goes on with the watermark that it had.
    reached = dict.fromkeys(logs.partitions, 0) | {batch.partition: batch.stop for batch in order[:at]}
    begins = dict.fromkeys(reached, 0) if is_new_log else reached
    second_shards = [announced(shard, begins) for shard in handed_over(reshard(first.shards, shards[1]))]
    watermarks = [
        replace(no_batch(name, begin), watermark_us=first.shards[0].watermarks[name])
        for name, begin in begins.items()
    ]
    rest = [of_a_new_log(batch, reached[batch.partition]) if is_new_log else batch for batch in order[at:]]
    second = fold_on(model, second_shards, [[*watermarks, *rest]] * shards[1])

    assert second.counts.restored == first.counts.pending
    assert first.counts.missing == second.counts.missing == 0
    for name in ("rows_in", "used", "duplicates", "late", "outside", "bad_files", "series_steps"):
        parts = getattr(first.counts, name) + getattr(second.counts, name)
        assert parts == getattr(whole.counts, name), name
    together = first.forecasts + second.forecasts
    assert_same(by_key(whole.forecasts), by_key(together), logs.scale, within=YOUNG)
    assert_same_lives(whole.states, second.states)


def of_a_new_log(batch: Batch, begin: int) -> Batch:
    """A batch of a log that goes on as one of a log that begins at ``begin`` of it."""
    rows, rejected = (f.with_columns(pl.col("offset") - begin) for f in (batch.rows, batch.rejected))
    return replace(batch, start=batch.start - begin, stop=batch.stop - begin, rows=rows, rejected=rejected)


@pytest.mark.prism
def test_a_stream_goes_on_where_a_backfill_ended(
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
    waiting = rows_of(Windows(("series 1",), START + 121, np.ones((1, 1))))
    batch = batches_of([Arrival(waiting, (START + 120) * HOUR_US)])[0]
    table = state_table.read(whole / "state")
    kept = fold_on(MODEL, handed_over(table.shards), [[batch]] * len(table.shards)).shards
    state_table.write(tmp_path / "state", kept)
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
    assert_same_ends(whole, job.output)
    assert state_table.read(job.states).pending.select(waiting.columns).equals(waiting)


@dataclass(frozen=True)
class Asked:
    """A source in which somebody asks the job to stop as it comes to an offset."""

    source: Source
    at: int
    stop_file: Location
    partition: str = "replay"
    is_paced: bool = False

    def step(self, offset: int) -> Step | None:
        """See `Source`."""
        if offset >= self.at:
            ask_to_stop(self.stop_file)
            return Step((), offset)
        return self.source.step(offset)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_stream_that_is_stopped_and_gone_on_with_is_one_stream(
    share: float, small_fleet: Windows, small_file: Path, whole: Path, tmp_path: Path
) -> None:
    output, rows = tmp_path / "out", len(rows_of(small_fleet))
    source = ReplaySource((str(small_file),), EVERYTHING, HOUR, 7200, windows_per_step=4)
    job = StreamJob(MODEL, source, output, shards=3, resume=True, runner="in-process")
    at = int(share * rows)
    stopped = run_stream(replace(job, source=Asked(source, at, job.stop_file)))

    # What the watermark had not passed is forecast from by nobody, and waits.
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

    # With another number of shards, too; counts are those of both runs.
    resumed = run_stream(replace(job, shards=2))
    assert not resumed.stopped
    assert resumed.counts.used == resumed.counts.rows_in == rows
    assert resumed.counts.missing == resumed.counts.late == resumed.counts.pending == 0
    assert_same_frames(read_forecasts(whole), read_forecasts(output), scales(small_fleet))
    assert_same_ends(whole, output)
    files = sorted((output / "forecasts").iterdir())
    everything = pl.concat([pl.read_parquet(file) for file in files])
    assert everything.select(pl.struct(IDENTITY).is_unique().all()).item()
    if share:  # the first part is as it was written, to the bit
        kept = read_forecasts(output).join(before, on=IDENTITY, how="semi")
        assert nested(kept.sort(IDENTITY)).equals(nested(before.sort(IDENTITY)))


def test_a_watched_folder_is_gone_on_with_file_by_file(
    small_fleet: Windows, whole: Path, tmp_path: Path
) -> None:
    incoming, output = tmp_path / "in", tmp_path / "out"
    incoming.mkdir()
    rows = rows_of(small_fleet)
    window = pl.col("timestamp").dt.epoch("us") // HOUR_US - START
    source = FolderSource(incoming, EVERYTHING, output / "state", lateness_s=7200, poll_s=0.02)
    job = StreamJob(MODEL, source, output, shards=2, resume=True, runner="in-process")
    read, deadline_s = 0, time.time() + 120
    for first, stop in ((0, 30), (30, 31), (31, 120)):
        part = rows.filter(window.is_between(first, stop - 1))
        path = incoming / f"{stop:03}.parquet"
        part.write_parquet(path)
        os.utime(path, (time.time() - 60, time.time() - 60))
        read += len(part)

        def when_read(numbers: JobNumbers, read: int = read) -> None:
            if numbers.counts.rows_in == read or time.time() > deadline_s:
                ask_to_stop(job.stop_file)

        counts = run_stream(job, when_read).counts
        assert counts.missing == counts.late == 0
        assert counts.rows_in == read
    # The watermark stays two hours behind the newest row: three windows are left open.
    assert counts.used + len(state_table.read(output / "state").pending) == len(rows)
    expected = read_forecasts(whole).filter(pl.col("issued_at").dt.epoch("us") <= (START + 117) * HOUR_US)
    assert_same_frames(expected, read_forecasts(output), scales(small_fleet))
