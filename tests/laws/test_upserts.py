"""Law: event versions that do not count change neither the newest forecasts nor the states of live series.

They can only add forecasts of a series that would not exist yet without them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.shards.batch import Batch
from forecaster.shards.counts import Counts
from forecaster.shards.models import Models
from forecaster.shards.shard import Output, Shard
from forecaster.time.duplicates import Keep
from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, StreamJob
from pipelines.sinks.files import read_forecasts, read_replaced
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.folder import FolderSource
from pipelines.sources.reader import request_stop
from schemas.forecasts import IDENTITY
from tests.comparisons import (
    YOUNG,
    assert_same,
    assert_same_frames,
    assert_same_live_series,
    newest_by_key,
    sorted_rows,
)
from tests.disks import outputs
from tests.fleets import HALF_A_DAY, HOUR_US, SHORT_WEEK, START, forecaster, rows_of, scales
from tests.folds import Ran, fold
from tests.laws.test_crash import fold_with_kills
from tests.laws.test_repair import AGGREGATES, scales_of
from tests.partitions import LONG_GAP, Log, Logs, all_logs


@st.composite
def logs_with_events(draw: st.DrawFn) -> Logs:
    """Generate logs in which some rows have the event id of an earlier row of their series and partition."""
    logs = draw(all_logs(partitions=2, series=3, windows=16))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.sampled_from([0.1, 0.5]))
    return Logs(tuple(_with_versions(log, share, rng) for log in logs.parts), logs.scale)


def _with_versions(log: Log, share: float, rng: np.random.Generator) -> Log:
    last: dict[str, list[str]] = {}
    ids = []
    for number, name in enumerate(log.rows["series_id"]):
        earlier = last.setdefault(name, [])
        is_version = earlier and rng.random() < share
        ids.append(earlier[-int(rng.integers(1, min(len(earlier), 4) + 1))] if is_version else str(number))
        earlier.append(ids[-1])
    events = pl.Series("event_id", [f"{log.partition} {one}" for one in ids], pl.String)
    return replace(log, rows=log.rows.with_columns(events))


def counting(log: Log, late: pl.DataFrame, repair: int, keep: Keep) -> Log:
    """Return the log without the observations that do not count; each remaining one gets its own event id.

    The new log has only one watermark, after its last row.
    """
    too_late = set(late.filter(pl.col("partition") == log.partition)["offset"]) if len(late) else set()
    # for each event: the offset and the window of each version that counts
    versions: dict[tuple[str, str], dict[int, int]] = {}
    # for each event: the window of each version that does not count because `keep` is "first"
    dropped: dict[tuple[str, str], list[int]] = {}
    for row in log.rows.iter_rows(named=True):
        if row["offset"] in too_late:
            continue
        event, window = (row["series_id"], row["event_id"]), _window(row)
        before_us = [us for at, us in log.watermarks_us.items() if at <= row["offset"]]
        oldest = HALF_A_DAY.window_of(max(before_us)) - repair if before_us else -(10**9)
        own, others = versions.setdefault(event, {}), dropped.setdefault(event, [])
        if keep == "first" and any(one >= oldest for one in (*own.values(), *others)):
            others.append(window)
            continue
        if keep == "last":
            versions[event] = own = {at: one for at, one in own.items() if one < oldest}
        own[row["offset"]] = window
    counts = [offset for own in versions.values() for offset in own]
    rows = log.rows.filter(pl.col("offset").is_in(counts))
    rows = rows.with_columns(event_id=pl.format("{} {}", pl.lit(log.partition), "offset"))
    return replace(log, rows=rows, watermarks_us={log.stop: log.watermarks_us[log.stop]})


def _window(row: dict[str, object]) -> int:
    return int(pl.Series([row["timestamp"]]).dt.epoch("us")[0]) // HALF_A_DAY.seconds // 1_000_000


def comparable(counts: Counts) -> Counts:
    """Return the counts with 0 for each count that depends on versions of events, such as duplicates.

    ``rows_in`` excludes late rows and duplicates.
    """
    rows_in = counts.rows_in - counts.late - counts.duplicates
    return replace(counts, rows_in=rows_in, late=0, duplicates=0, windows=0, replaced=0, repaired=0)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@settings(max_examples=6)
@given(
    keep=st.sampled_from(["last", "first"]),
    logs=logs_with_events(),
    max_gap=st.sampled_from([3, LONG_GAP]),
    repair=st.sampled_from([0, 1, 3, 6, 12]),
    shards=st.integers(1, 2),
    kills=st.integers(0, 2),
    data=st.data(),
)
def test_replaced_event_versions_do_not_change_newest_forecast_revisions(
    aggregate: str,
    keep: Keep,
    logs: Logs,
    max_gap: int,
    repair: int,
    shards: int,
    kills: int,
    data: st.DataObject,
) -> None:
    model = forecaster(aggregate=aggregate, max_gap=max_gap, layers=1, **SHORT_WEEK)

    def steps(shard: Shard, batches: Iterable[Batch], per_step: int) -> Iterator[tuple[Shard, Output]]:
        return outputs(Models(model, repair=repair, duplicates=keep), shard, batches, per_step)

    ran = fold_with_kills(model, logs, shards, kills, data.draw, steps)
    late = sorted_rows(ran.late)
    reference = Logs(tuple(counting(log, late, repair, keep) for log in logs.parts), logs.scale)
    clean = fold(model, reference.one_by_one(), shards, partitions=logs.partitions)
    assert ran.counts.missing == ran.counts.pending == 0
    assert comparable(ran.counts) == comparable(clean.counts)
    own, all_rows = scales_of(reference, aggregate), scales_of(logs, aggregate)
    assert_same_newest(clean, ran, {name: max(own[name], scale) for name, scale in all_rows.items()})


def assert_same_newest(clean: Ran, ran: Ran, scale: dict[str, float]) -> None:
    """Assert that the newest revision of each forecast in ``clean`` equals its newest revision in ``ran``.

    The states of all live series must be equal, too. ``clean`` is a run of only the rows that count. ``ran``
    may have issued more forecasts, of a series that did not exist yet without a dropped row.
    """
    expected, found = newest_by_key(clean.forecasts), newest_by_key(ran.forecasts)
    assert expected.keys() <= found.keys()
    assert_same(expected, {key: found[key] for key in expected}, scale, within=YOUNG)
    assert_same_live_series(clean.states, ran.states)


@pytest.mark.parametrize("keep", ["last", "first"])
def test_only_the_kept_version_of_each_event_affects_forecasts(keep: Keep, tmp_path: Path) -> None:
    """A stream and a backfill read files in which later rows correct the values and times of earlier rows."""
    model, folder, rng = forecaster(layers=1), tmp_path / "in", np.random.default_rng(5)
    fleet = Windows(tuple("abcd"), START, 50 + rng.normal(size=(30, 4)).cumsum(axis=0))
    rows = rows_of(fleet).with_columns(event_id=pl.format("e{}", pl.int_range(pl.len())), is_first=True)
    rows = rows.with_columns(file=(pl.col("timestamp").dt.epoch("us") // HOUR_US - START) // 3)
    corrected = rows.filter(pl.Series(rng.random(len(rows)) < 0.15) & pl.col("file").is_between(1, 7))
    moved_us = pl.Series(rng.integers(-3, 4, len(corrected)) * HOUR_US).cast(pl.Duration("us"))
    corrected = corrected.with_columns(
        pl.col("timestamp") + moved_us,
        pl.col("value") + 5,
        file=pl.col("file") + 1,
        is_first=False,
    )
    every = pl.concat([rows, corrected])
    counts = every.filter(pl.struct("event_id").is_unique() | (pl.col("is_first") == (keep == "first")))
    folder.mkdir()
    for (number,), part in every.sort("file", maintain_order=True).group_by("file", maintain_order=True):
        write_old(part.select(FIELDS), folder / f"{number:02}.csv")
    write_old(counts.select(FIELDS), tmp_path / "counts.csv")
    how = Input(Columns(event_id="event_id", duplicates=keep))
    clean = run_backfill(
        BackfillJob(model, (str(tmp_path / "counts.csv"),), how, tmp_path / "clean", shards=2)
    ).counts
    expected = read_forecasts(tmp_path / "clean")

    files = tuple(map(str, sorted(folder.iterdir())))
    backfill = run_backfill(BackfillJob(model, files, how, tmp_path / "backfill", shards=2)).counts
    assert (backfill.used, backfill.duplicates) == (clean.used, len(corrected))
    assert backfill.replaced == len(read_replaced(tmp_path / "backfill")) == len(corrected)
    assert_same_frames(expected, read_forecasts(tmp_path / "backfill"), scales(fleet))

    output = tmp_path / "stream"
    source = FolderSource(folder, how, output / "state", poll_s=0.05)
    job = StreamJob(model, source, output, 2, repair=12, duplicates=keep, runner="in-process")
    deadline_s = time.time() + 60

    def stop_when_read(numbers: JobNumbers) -> None:
        if numbers.counts.rows_in == len(every) or time.time() > deadline_s:
            request_stop(job.stop_file)

    streamed = run_stream(job, stop_when_read).counts
    assert streamed.missing == streamed.late == 0
    assert streamed.rows_in == len(every)
    found = read_forecasts(output)
    assert (found["revision"] > 0).any()
    expected = expected.filter(pl.col("issued_at") <= found["issued_at"].max())
    found = found.join(expected, on=IDENTITY[:3], how="semi")
    assert_same_frames(expected, found.with_columns(revision=pl.lit(0, pl.Int32)), scales(fleet))


@pytest.mark.parametrize(("keep", "value"), [("last", 2.0), ("first", 1.0)])
def test_the_duplicates_setting_selects_the_first_or_last_row(
    keep: Keep, value: float, tmp_path: Path
) -> None:
    path, output = tmp_path / "in.csv", tmp_path / "out"
    path.write_text("series_id,timestamp,value\n" + "".join(f"a,2013-01-01T05:00Z,{i}\n" for i in (1, 2)))
    columns = Columns(duplicates=keep)
    counts = run_backfill(BackfillJob(forecaster(), (str(path),), Input(columns), output, shards=1)).counts
    assert (counts.used, counts.duplicates, counts.replaced) == (1, 1, 1)
    assert read_replaced(output)["replaced_by"].to_list() == [value]


FIELDS = ["series_id", "timestamp", "value", "event_id"]


def write_old(rows: pl.DataFrame, path: Path) -> None:
    """Write rows as a CSV file with a modification time one minute ago."""
    rows.write_csv(path)
    os.utime(path, (time.time() - 60, time.time() - 60))
