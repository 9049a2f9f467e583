"""Law: a job that repairs late rows ends with the state and the forecasts of a job without late rows."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from forecaster.shards.batch import Batch
from forecaster.shards.counts import Counts
from forecaster.shards.models import ModelChange, Models
from forecaster.shards.shard import Output, Shard
from forecaster.time.aggregation import aggregate as aggregate_rows
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, Runner, StreamJob
from pipelines.sinks.files import PARTS, read_forecasts, read_late
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.folder import FolderSource
from pipelines.sources.reader import request_stop
from pipelines.state import state_table
from tests.comparisons import (
    YOUNG,
    assert_same,
    assert_same_frames,
    assert_same_live_series,
    assert_same_state,
    newest_by_key,
    sorted_rows,
)
from tests.disks import outputs
from tests.fleets import HALF_A_DAY, HOUR_US, SHORT_WEEK, START, forecaster, rows_of, scales
from tests.folds import Ran, fold
from tests.laws.test_crash import fold_with_kills
from tests.laws.test_topics import forecast_scales, topics
from tests.laws.topic_jobs import run_in_time, run_with_kills, source_of
from tests.logs import half_of, job_of, small_log
from tests.partitions import LONG_GAP, Logs, all_logs
from tests.power import PowerLoss
from tests.stores import forecasts_written

AGGREGATES = ("mean", "sum", "count", "min", "max", "last")


def in_time(logs: Logs, late: Ran) -> Logs:
    """Return the logs without the rows that were late in the run ``late``, so that no row is late.

    Each log has only its last watermark, which closes every window.
    """
    rows = sorted_rows(late.late)
    parts = []
    for log in logs.parts:
        own = (
            rows.filter(pl.col("partition") == log.partition)["offset"]
            if len(rows)
            else pl.Series([], dtype=pl.Int64)
        )
        kept = log.rows.filter(~pl.col("offset").is_in(own.implode()))
        parts.append(replace(log, rows=kept, watermarks_us={log.stop: log.watermarks_us[log.stop]}))
    return Logs(tuple(parts), logs.scale)


def scales_of(logs: Logs, aggregate: str, empty: str = "missing") -> dict[str, float]:
    """Return the larger of two scales of each series: ``logs.scale``, and the scale of its aggregated rows.

    The rows that a run leaves out count too: a series of one value would have no scale.
    """
    rows = pl.concat([log.rows for log in logs.parts]).drop("offset")
    config = WindowConfig.model_validate({"freq": str(HALF_A_DAY), "aggregate": aggregate})
    found = scales(aggregate_rows(rows, config).windows, empty)
    return {name: max(scale, found.get(name, 0.0)) for name, scale in logs.scale.items()}


def comparable(counts: Counts) -> Counts:
    """Return the counts without the rows that were too late for a repair, to compare two runs.

    ``rows_in`` leaves these rows out. Counts that may depend on when rows arrive are set to 0.
    """
    rows_in = counts.rows_in - counts.late
    return replace(counts, rows_in=rows_in, late=0, windows=0, replaced=0, repaired=0)


def assert_repaired(repaired: Ran, reference: Ran, scale: dict[str, float]) -> None:
    """Assert that a run with repairs gives the results of a run in which no row was late."""
    assert comparable(repaired.counts) == comparable(reference.counts)
    assert repaired.counts.missing == repaired.counts.pending == 0
    found = newest_by_key(repaired.forecasts)
    assert_same(newest_by_key(reference.forecasts), found, scale, within=YOUNG)
    assert_same_live_series(reference.states, repaired.states)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@settings(max_examples=6)
@given(
    logs=all_logs(),
    max_gap=st.sampled_from([3, LONG_GAP]),
    empty=st.sampled_from(["missing", "zero"]),
    repair=st.integers(1, 7),
    shards=st.integers(1, 3),
    kills=st.integers(0, 3),
    data=st.data(),
)
def test_repairs_give_the_forecasts_of_a_run_without_delays(
    aggregate: str,
    logs: Logs,
    max_gap: int,
    empty: str,
    repair: int,
    shards: int,
    kills: int,
    data: st.DataObject,
) -> None:
    model = forecaster(aggregate=aggregate, empty=empty, max_gap=max_gap, layers=1, **SHORT_WEEK)

    def steps(shard: Shard, batches: Iterable[Batch], per_step: int) -> Iterator[tuple[Shard, Output]]:
        return outputs(Models(model, repair=repair), shard, batches, per_step)

    repaired = fold_with_kills(model, logs, shards, kills, data.draw, steps)
    reference = in_time(logs, repaired)
    late = fold(model, logs.one_by_one(), shards, partitions=logs.partitions)
    assert repaired.counts.late + repaired.counts.repaired == late.counts.late
    assert_repaired(
        repaired,
        fold(model, reference.one_by_one(), shards, partitions=logs.partitions),
        scales_of(logs, aggregate, empty),
    )


@settings(max_examples=8)
@given(
    logs=all_logs(),
    repair=st.integers(2, 7),
    change=st.integers(0, 24),
    shards=st.integers(1, 3),
    kills=st.integers(0, 3),
    data=st.data(),
)
def test_repairs_apply_model_changes_again_and_revise_shadow_forecasts(
    logs: Logs, repair: int, change: int, shards: int, kills: int, data: st.DataObject
) -> None:
    old, new, shadow = (
        forecaster(cell, seed=seed, max_gap=LONG_GAP, **SHORT_WEEK)
        for seed, cell in enumerate(("lstm", "gru", "rnn"))
    )
    models = Models(old, (ModelChange(START // 12 + change, new),), shadow=shadow)

    def steps(shard: Shard, batches: Iterable[Batch], per_step: int) -> Iterator[tuple[Shard, Output]]:
        return outputs(replace(models, repair=repair), shard.with_shadow(shadow), batches, per_step)

    repaired = fold_with_kills(old, logs, shards, kills, data.draw, steps)
    reference = in_time(logs, repaired)
    every, alone = (
        fold(one, reference.one_by_one(), shards, partitions=logs.partitions)
        for one in (replace(models, shadow=None), shadow)
    )
    scale = scales_of(logs, "mean")
    assert_repaired(repaired, every, scale)
    assert_same(newest_by_key(alone.forecasts), newest_by_key(repaired.shadows), scale, within=YOUNG)
    for part in repaired.forecasts:
        if part is not None and len(part):
            assert {models.of_window(int(window)).version for window in part.index} == {part.model_version}


@settings(max_examples=6, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(kills=st.integers(0, 3), lateness=st.integers(0, 1), repair=st.integers(1, 5), data=st.data())
def test_topic_repairs_give_the_forecasts_of_rows_in_time(
    kills: int, lateness: int, repair: int, data: st.DataObject
) -> None:
    topic, scale, start = data.draw(topics(keyed=False))
    model = forecaster(aggregate="sum", allowed_lateness=f"{12 * lateness}h", **SHORT_WEEK)
    with tempfile.TemporaryDirectory() as name:
        poll_rows = data.draw(st.integers(2, 30))
        source = source_of(topic, start, Path(name), lateness, poll_rows=poll_rows, idle_s=30)
        repaired = run_with_kills(model, source, topic, kills, data.draw, repair=repair)
        reference = run_in_time(model, replace(source, poll_rows=10**6), topic, repaired)
    assert comparable(repaired.counts) == comparable(reference.counts)
    expected = newest_by_key(reference.forecasts)
    found = newest_by_key(repaired.forecasts)
    assert_same(expected, found, forecast_scales(expected, scale), within=YOUNG)
    assert_same_live_series(reference.states, repaired.states)


# `PowerLoss` leaves out the files with these path prefixes, because they do not influence a resumed run.
_IGNORED = (".numbers", ".lock", ".ended", ".run")


def test_a_stream_repairs_late_rows_after_a_kill_or_a_power_loss(tmp_path: Path) -> None:
    log, scale = small_log()
    last = replace(log, watermarks_us={log.stop: log.watermarks_us[log.stop]})
    clean = run_stream(job_of(last, tmp_path / "clean", stop=log.stop)).counts
    expected = read_forecasts(tmp_path / "clean")
    states = state_table.read(tmp_path / "clean" / "state").state
    assert run_stream(job_of(log, tmp_path / "late")).counts.late > 0
    output = tmp_path / "out"
    run_stream(job_of(log, output, stop=half_of(log), repair=6))
    power = PowerLoss(output, _IGNORED, every_prefix=False, slow=PARTS)
    with power.record():
        # run with 2 shards, so that the run begins by replacing the state table with one for 2 shards
        run_stream(job_of(log, output, shards=2, repair=6))
    for files in [power.states[-1], *random.Random(4).sample(power.states, 11)]:
        power.restore(files)
        ended = run_stream(job_of(log, output, shards=2, windows_per_step=3, repair=6)).counts
        assert ended.repaired > ended.late == 0
        assert comparable(ended) == comparable(clean)
        found = read_forecasts(output)
        assert (found["revision"] > 0).any()
        assert_same_frames(expected, found.with_columns(revision=pl.lit(0, pl.Int32)), scale)
        assert_same_state(states, state_table.read(output / "state").state)
        assert forecasts_written(output) == len(read_forecasts(output, all_revisions=True))


@pytest.mark.parametrize("runner", ["in-process", pytest.param("prism", marks=pytest.mark.prism)])
def test_a_stream_of_a_watched_folder_repairs_late_rows(runner: Runner, tmp_path: Path) -> None:
    model, folder, output = forecaster(), tmp_path / "in", tmp_path / "out"
    rng = np.random.default_rng(2)
    fleet = Windows(tuple("abcdef"), START, 50 + rng.normal(size=(30, 6)).cumsum(axis=0))
    rows = rows_of(fleet).with_columns(pl.col("timestamp").dt.epoch("us").alias("us"))
    delayed = pl.Series(rng.random(len(rows)) < 0.1) & (rows["us"] < (START + 24) * HOUR_US)
    files_later = pl.when(delayed).then(2).otherwise(0)
    rows = rows.with_columns(file=(pl.col("us") // HOUR_US - START) // 3 + files_later)
    folder.mkdir()
    for number, part in rows.partition_by("file", as_dict=True).items():
        path = folder / f"{number[0]:02}.csv"
        part.select("series_id", "timestamp", "value").write_csv(path)
        os.utime(path, (time.time() - 60, time.time() - 60))
    every = tmp_path / "every.csv"
    rows.select("series_id", "timestamp", "value").write_csv(every)
    run_backfill(BackfillJob(model, (str(every),), Input(Columns()), tmp_path / "backfill", shards=2))
    source = FolderSource(folder, Input(Columns()), output / "state", poll_s=0.05)
    job = StreamJob(model, source, output, shards=2, repair=12, runner=runner)
    deadline_s = time.time() + 60

    def stop_when_read(numbers: JobNumbers) -> None:
        if numbers.counts.rows_in == len(rows) or time.time() > deadline_s:
            request_stop(job.stop_file)

    counts = run_stream(job, stop_when_read).counts
    assert counts.rows_in == len(rows)
    assert counts.repaired == delayed.sum()
    assert counts.late == len(read_late(output)) == 0
    found = read_forecasts(output)
    expected = read_forecasts(tmp_path / "backfill").filter(pl.col("issued_at") <= found["issued_at"].max())
    assert (found["revision"] > 0).any()
    assert_same_frames(expected, found.with_columns(revision=pl.lit(0, pl.Int32)), scales(fleet))
