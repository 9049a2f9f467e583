"""Law: a job with a replayed quarantine has the same forecasts and state as a job over correct rows."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from forecaster.shards.counts import Counts
from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, StreamJob
from pipelines.jobs.quarantine_job import QuarantineJob
from pipelines.jobs.quarantine_replay import replay_quarantine
from pipelines.settings.data_config import Columns
from pipelines.sinks.files import PARTS, read_forecasts, read_late, read_quarantine
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.folder import FolderSource
from pipelines.sources.reader import request_stop
from pipelines.state import state_table
from tests.comparisons import YOUNG, assert_same_frames, assert_same_live_series
from tests.fleets import HALF_A_DAY_US, SHORT_WEEK, START, fleets, forecaster, rows_of
from tests.partitions import LONG_GAP
from tests.power import PowerLoss
from tests.stores import forecasts_written

GERMAN = Input(Columns.model_validate({"time_format": "%d.%m.%Y %H:%M:%S%.f", "decimal": ","}))
ISO = Input(Columns.model_validate({"decimal": ","}))
AS_WRITTEN = Input(Columns.model_validate({"decimal": "."}))
ALL = 200  # more windows than any fleet in this module has


def several_rows(fleet: Windows, per_window: int) -> pl.DataFrame:
    """Return up to ``per_window`` rows for each value of a fleet.

    The time of a row may be in the window after the window of its value.

    The values of the rows are rounded to two decimals.
    """
    rows = rows_of(fleet, HALF_A_DAY_US).select("series_id", "timestamp", "value")
    frames = [
        rows.with_columns(
            pl.col("timestamp") + pl.duration(microseconds=number * 7_919_000_000 % HALF_A_DAY_US),
            pl.col("value") * (1 + number / 8),
        )
        for number in range(per_window)
    ]
    return (
        pl.concat(frames)
        .with_columns(pl.col("value").round(2))
        .unique(["series_id", "timestamp"])
        .sort("timestamp", "series_id")
    )


def write_rows(rows: pl.DataFrame, path: Path, german_times: Sequence[bool], commas: Sequence[bool]) -> None:
    """Write rows as CSV.

    The timestamp of a row is in a German form if the row's entry in ``german_times`` is True. Its value has
    a decimal comma if the row's entry in ``commas`` is True.
    """
    german, iso = (
        rows["timestamp"].dt.strftime(form) for form in ("%d.%m.%Y %H:%M:%S%.6f", "%Y-%m-%dT%H:%M:%S%.6fZ")
    )
    values = [f"{value:.2f}" for value in rows["value"]]
    values = [v.replace(".", ",") if comma else v for v, comma in zip(values, commas, strict=True)]
    times = german.zip_with(pl.Series(np.array(german_times)), iso)
    pl.DataFrame({"series_id": rows["series_id"], "timestamp": times, "value": values}).write_csv(path)


def scales_of(rows: pl.DataFrame) -> dict[str, float]:
    """Return a scale for each series: standard deviation + 1 % of the largest absolute value + 0.001.

    A series of one value has no standard deviation; the width of its intervals depends on this value.
    """
    value = pl.col("value")
    found = rows.group_by("series_id").agg(value.std().fill_null(0.0) + value.abs().max() / 100 + 1e-3)
    return dict(found.rows())


def comparable(counts: Counts) -> Counts:
    """Return a copy of the counts in which five fields are 0 or empty.

    These fields may differ between a job with quarantine replays and a job over correct rows.
    """
    return replace(counts, windows=0, replaced=0, repaired=0, replayed=0, quarantined={})


@settings(max_examples=8, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@pytest.mark.parametrize("aggregate", ["mean", "sum", "last"])
@given(
    fleet=fleets(),
    max_gap=st.sampled_from([3, LONG_GAP]),
    shards=st.integers(1, 3),
    per_window=st.integers(1, 2),
    share=st.sampled_from([0.1, 0.6]),
    seed=st.integers(0, 99),
)
def test_backfill_with_quarantine_replays_equals_backfill_of_correct_rows(
    aggregate: str, fleet: Windows, max_gap: int, shards: int, per_window: int, share: float, seed: int
) -> None:
    rows = several_rows(Windows(fleet.series_ids, fleet.start // 12, fleet.values), per_window)
    if len(rows) < 2:
        return
    rng = np.random.default_rng(seed)
    german, commas = (rng.random(len(rows)) < share for _ in range(2))
    right = int(rng.integers(len(rows)))
    german[right] = commas[right] = False  # one row stays valid: jobs refuse files without valid rows
    model = forecaster(aggregate=aggregate, max_gap=max_gap, **SHORT_WEEK)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(rows, folder / "right.csv", [False] * len(rows), [False] * len(rows))
        write_rows(rows, folder / "wrong.csv", list(german), list(commas))
        jobs = {
            which: BackfillJob(
                model, (str(folder / f"{which}.csv"),), AS_WRITTEN, folder / which, shards=shards, repair=ALL,
                max_quarantined=1.0, runner="in-process", threads=1,
            )
            for which in ("right", "wrong")
        }  # fmt: skip
        expected = run_backfill(jobs["right"]).counts
        bad = run_backfill(jobs["wrong"]).counts
        assert bad.rejected == (german | commas).sum()
        output = jobs["wrong"].output
        replay = QuarantineJob(forecaster=model, input=GERMAN, output=output, repair=ALL, threads=1)
        first = replay_quarantine(replay).counts
        second = replay_quarantine(replace(replay, input=ISO)).counts
        assert first.missing == second.missing == 0
        assert first.used == german.sum()
        assert second.used == (commas & ~german).sum()
        assert not len(read_quarantine(output))
        counts = state_table.read(output / "state", series=False).counts
        assert counts.in_quarantine == counts.late == counts.missing == 0
        assert comparable(counts) == comparable(expected)
        found = read_forecasts(output).with_columns(revision=pl.lit(0, pl.Int32))
        assert_same_frames(read_forecasts(jobs["right"].output), found, scales_of(rows), within=YOUNG)
        assert_same_live_series(
            *([shard.state for shard in state_table.read(job.states).shards] for job in jobs.values())
        )


def small_files(folder: Path) -> tuple[pl.DataFrame, int]:
    """Write two files with the same rows; return the rows, and how many have German times in ``wrong.csv``.

    In ``right.csv``, all times have the ISO format. ``wrong.csv`` also has one row with an invalid value,
    which is neither returned nor counted.
    """
    rng = np.random.default_rng(7)
    values = 1e3 + rng.normal(size=(20, 4)).cumsum(axis=0)
    values[rng.random(values.shape) < 0.1] = np.nan
    rows = several_rows(Windows(tuple("abcd"), START // 12, values), 1)
    german, none = rng.random(len(rows)) < 0.3, [False] * len(rows)
    write_rows(rows, folder / "right.csv", none, none)
    # The value of series e becomes "much", which no setting reads as a number: its row stays in quarantine.
    broken = rows.head(1).with_columns(pl.lit("e").alias("series_id"))
    write_rows(pl.concat([rows, broken]), folder / "wrong.csv", [*german, True], [*none, False])
    text = (folder / "wrong.csv").read_text().rstrip().rsplit(",", 1)[0]
    (folder / "wrong.csv").write_text(f"{text},much\n")
    return rows, int(german.sum())


# `PowerLoss` leaves out paths in the output folder with these prefixes, as they do not influence a rerun.
_IGNORED = (".numbers", ".lock", ".ended", ".run")


def test_rerunning_a_killed_quarantine_replay_gives_the_uninterrupted_outputs(tmp_path: Path) -> None:
    rows, replayed = small_files(tmp_path)
    model, output = forecaster(**SHORT_WEEK), tmp_path / "out"
    job = BackfillJob(
        model, (str(tmp_path / "wrong.csv"),), AS_WRITTEN, output, shards=2, repair=ALL, max_quarantined=1.0
    )
    run_backfill(job)
    run_backfill(replace(job, paths=(str(tmp_path / "right.csv"),), output=tmp_path / "right"))
    expected = read_forecasts(tmp_path / "right")
    states = [shard.state for shard in state_table.read(tmp_path / "right" / "state").shards]
    replay = QuarantineJob(forecaster=model, input=GERMAN, output=output, repair=ALL)
    power = PowerLoss(output, _IGNORED, every_prefix=False, slow=PARTS)
    with power.record():
        undisturbed = replay_quarantine(replay)
    assert undisturbed.counts.used == undisturbed.counts.repaired == replayed
    assert undisturbed.left == undisturbed.counts.rejected == 1
    last, rest = power.states[-1], power.states[:-1]
    for files in [last, *random.Random(4).sample(rest, min(15, len(rest)))]:
        power.restore(files)
        again = replay_quarantine(replay)
        # If the kill came after the last file operation, the second replay finds no row that it can use.
        assert again.nothing or again.counts == undisturbed.counts
        assert (files is last) == bool(again.nothing)
        found = read_forecasts(output)
        assert_same_frames(expected, found.with_columns(revision=pl.lit(0, pl.Int32)), scales_of(rows))
        assert_same_live_series(states, [shard.state for shard in state_table.read(output / "state").shards])
        assert forecasts_written(output) == len(read_forecasts(output, all_revisions=True))
        assert read_quarantine(output)["row"].to_list() == [len(rows) + 1]
        assert not (output / "state" / "quarantine.json").exists()


def test_streams_resumed_after_replay_equal_streams_of_correct_rows(tmp_path: Path) -> None:
    rows, _ = small_files(tmp_path)
    model, half = forecaster(**SHORT_WEEK), len(rows) // 2
    rng = np.random.default_rng(1)
    german, none = rng.random(len(rows)) < 0.3, [False] * len(rows)
    # The newest row of the first file has an ISO time, so the streams "right" and "wrong" both accept it.
    # This row moves the watermark.
    german[half - 1] = False

    def stream(name: str, kinds: Sequence[bool], first: int, stop: int, count: int) -> Counts:
        folder, output = tmp_path / name, tmp_path / f"{name}-out"
        folder.mkdir(exist_ok=True)
        path = folder / f"{first:03}.csv"
        write_rows(rows[first:stop], path, kinds[first:stop], none[first:stop])
        os.utime(path, (time.time() - 60, time.time() - 60))
        source = FolderSource(folder, AS_WRITTEN, output / "state", poll_s=0.05)
        job = StreamJob(model, source, output, shards=2, repair=ALL, resume=True, runner="in-process")
        deadline_s = time.time() + 60

        def stop_when_read(numbers: JobNumbers) -> None:
            if numbers.counts.rows_in == count or time.time() > deadline_s:
                request_stop(job.stop_file)

        return run_stream(job, stop_when_read).counts

    for name, kinds in (("right", none), ("wrong", list(german))):
        stream(name, kinds, 0, half, half)
        if name == "wrong":
            replay = QuarantineJob(forecaster=model, input=GERMAN, output=tmp_path / "wrong-out", repair=ALL)
            counts = replay_quarantine(replay).counts
            assert counts.replayed == german[:half].sum() == counts.used + counts.pending
            assert counts.used > 0
            assert counts.missing == counts.rejected == counts.late == 0
        ended = stream(name, kinds, half, len(rows), len(rows))
        assert ended.missing == ended.late == 0
    second = replay_quarantine(replay).counts
    assert second.replayed == german[half:].sum()
    found = read_forecasts(tmp_path / "wrong-out").with_columns(revision=pl.lit(0, pl.Int32))
    assert_same_frames(read_forecasts(tmp_path / "right-out"), found, scales_of(rows))
    assert_same_live_series(
        *(
            [s.state for s in state_table.read(tmp_path / f"{name}-out" / "state").shards]
            for name in ("right", "wrong")
        )
    )
    assert not len(read_late(tmp_path / "wrong-out"))
