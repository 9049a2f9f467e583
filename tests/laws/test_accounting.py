"""Law: rows read = rows used + rows quarantined + duplicates + late rows (+ pending rows), exactly."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import StreamJob
from pipelines.sinks.files import read_forecasts, read_late, read_quarantine
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.folder import FolderSource
from pipelines.sources.reader import request_stop
from schemas import observations
from tests.comparisons import YOUNG, assert_same, by_key
from tests.fleets import HOUR_US, SHORT_WEEK, START, forecaster
from tests.folds import Arrival, fold, fold_on, run_shards
from tests.partitions import LONG_GAP, Logs, all_logs, cut, interleaved

NAMES = st.sampled_from(["a", "b", "c", "d", "", "  ", None])
TIMES = st.one_of(
    st.integers(START * 3600, (START + 30) * 3600).map(str),
    st.sampled_from(
        [None, "", "yesterday", "2013-02-30", "20130131", "2013-01-01T05:00:00+02:00", "1492-10-12"]
    ),
)
VALUES = st.one_of(
    st.floats(-1e9, 1e9).map(repr),
    st.sampled_from([None, "", "NaN", "inf", "-inf", "n/a", "1e400", "7", "7"]),
)
MESSY_ROWS = st.lists(st.tuples(NAMES, TIMES, VALUES), max_size=60)


@given(messy=MESSY_ROWS, cuts=st.lists(st.integers(0, 60), max_size=5), data=st.data())
def test_every_row_of_an_input_is_counted_exactly_once(
    messy: list[tuple[Any, ...]], cuts: list[int], data: st.DataObject
) -> None:
    schema = ["series_id", "timestamp", "value"]
    messy += messy[:1]
    raw = pl.DataFrame(messy, schema=schema, schema_overrides=dict.fromkeys(schema, pl.String), orient="row")
    arrivals, bad_rows = [], 0
    bounds = sorted({0, len(raw), *(min(cut, len(raw)) for cut in cuts)})
    for first, stop in pairwise(bounds):
        good, bad = observations.validate(raw[first:stop])
        assert len(good) + len(bad) == stop - first
        bad_rows += len(bad)
        # Some drawn watermarks are later than the rows that follow, so these rows are late.
        arrivals.append(Arrival(good, data.draw(st.integers(START, START + 35)) * HOUR_US))
    if not arrivals:
        return
    for to_the_end in (False, True):
        ran = run_shards(forecaster(), arrivals, shards=3, to_the_end=to_the_end)
        assert ran.counts.missing == 0
        assert ran.counts.rows_in + bad_rows == len(raw)
        assert ran.counts.late == sum(map(len, ran.late))
        assert not (to_the_end and ran.counts.pending)


@given(logs=all_logs(), shards=st.integers(1, 4), data=st.data())
def test_every_row_of_every_partition_is_counted_once(logs: Logs, shards: int, data: st.DataObject) -> None:
    order = interleaved(data.draw, [cut(data.draw, log) for log in logs.parts])
    stop = data.draw(st.integers(0, len(order)))
    ran = fold(forecaster(max_gap=LONG_GAP, **SHORT_WEEK), order[:stop], shards, partitions=logs.partitions)
    batches, counts = order[:stop], ran.counts
    files = sum(int((batch.rejected["row"] == 0).sum()) for batch in batches)
    rejected = sum(len(batch.rejected) for batch in batches) - files
    assert counts.missing == 0
    assert counts.rows_in == sum(len(batch.rows) for batch in batches) + rejected
    assert counts.rejected == rejected
    assert set(counts.quarantined) <= {"is not a number", "value is infinite"}
    assert counts.bad_files == files
    assert counts.outside == sum(batch.outside for batch in batches)
    assert counts.rows_in + counts.bad_files + counts.outside == sum(b.stop - b.start for b in batches)
    assert counts.late == sum(map(len, ran.late))
    assert counts.rejected + files == sum(map(len, ran.quarantined))
    assert counts.replaced == sum(map(len, ran.replaced)) <= counts.duplicates
    assert counts.pending == sum(len(shard.pending) for shard in ran.shards)
    assert stop < len(order) or not counts.pending


@settings(max_examples=6)  # test few examples, because each example reads its logs several times
@given(logs=all_logs(), shards=st.integers(1, 4), data=st.data())
def test_batches_that_are_read_again_change_no_output(logs: Logs, shards: int, data: st.DataObject) -> None:
    model = forecaster(max_gap=LONG_GAP, **SHORT_WEEK)
    once = fold(model, logs.one_by_one(), shards, partitions=logs.partitions)
    again = [
        batch for log in logs.parts for batch in cut(data.draw, log, data.draw(st.integers(0, log.stop - 1)))
    ]
    twice = fold_on(model, [shard.copy() for shard in once.shards], [again] * shards)
    assert once.counts == twice.counts
    assert not by_key(twice.forecasts)
    assert not sum(map(len, twice.late + twice.quarantined))

    # Before each batch, read some earlier batches again, as a job does after a restart.
    order = logs.one_by_one()
    repeated = []
    for batch in order:
        log = next(log for log in logs.parts if log.partition == batch.partition)
        start = data.draw(st.integers(0, batch.start))
        repeated += [b for b in log.batches(start=start) if b.stop <= batch.stop]
    with_repeats = fold(model, repeated, shards, partitions=logs.partitions)
    assert once.counts == with_repeats.counts
    assert_same(by_key(once.forecasts), by_key(with_repeats.forecasts), logs.scale, within=YOUNG)


def write_old_file(folder: Path, name: str, lines: list[str]) -> None:
    """Write a CSV file whose time of modification is a minute ago.

    A source reads a file only if it was not modified for some time, because it may still be growing.
    """
    path = folder / name
    path.write_text("series_id,timestamp,value\n" + "\n".join(lines) + "\n")
    os.utime(path, (time.time() - 60, time.time() - 60))


@pytest.mark.prism
def test_a_stream_of_a_watched_folder_counts_every_row(tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    day = "2013-01-01T"
    write_old_file(
        folder, "1.csv", [f"{name},{day}{h:02}:30:00Z,{h}" for h in range(6) for name in ("a", "b", "c")]
    )
    # The file 2.csv has two late rows and one duplicate.
    write_old_file(folder, "2.csv", [f"a,{day}{h:02}:10:00Z,{h}" for h in (2, 4, 9, 9)])
    write_old_file(folder, "3.csv", [f"b,{day}0{h}:40:00Z,{h}" for h in range(5)])  # 3.csv has only late rows
    write_old_file(
        folder, "4.csv", [f"new,{day}03:00:00Z,1", f"new,{day}11:00:00Z,2", f"c,{day}12:05:00Z,x", "c,,2"]
    )
    write_old_file(folder, "5.csv", [f"c,{day}14:20:00Z,3", f"a,{day}14:20:00Z,3"])
    (folder / "6.parquet").write_bytes(b"no Parquet at all")
    os.utime(folder / "6.parquet", (time.time() - 60, time.time() - 60))
    source = FolderSource(folder, Input(Columns(), skip_bad_files=True), output / "state", poll_s=0.05)
    job = StreamJob(forecaster(), source, output, shards=2)

    def stop_when_read(numbers: JobNumbers) -> None:
        if len(read_quarantine(output)) == 3 or time.time() > deadline_s:
            request_stop(job.stop_file)

    deadline_s = time.time() + 60
    counts = run_stream(job, stop_when_read).counts

    assert counts.missing == 0
    assert counts.rows_in == 18 + 4 + 5 + 4 + 2
    assert counts.late == 2 + 5 + 1 == len(read_late(output))
    assert counts.duplicates == 1
    assert counts.bad_files == 1
    assert counts.rejected == 2 == len(read_quarantine(output)) - 1
    assert counts.pending == 2
    assert counts.used == 18 + 1 + 1
    # Forecasts are issued at the ends of closed windows only, and no late row adds a forecast.
    issued = read_forecasts(output)["issued_at"]
    assert str(issued.min()) == "2013-01-01 01:00:00+00:00"
    assert str(issued.max()) == "2013-01-01 14:00:00+00:00"
