"""Law: a job that is killed at any moment and then resumed has the outputs of a job that is not killed."""

from __future__ import annotations

import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.model import Forecaster
from forecaster.shards.batch import Batch
from forecaster.shards.shard import Output, Shard
from forecaster.shards.sharding import empty_batch
from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import StreamJob
from pipelines.sinks.files import PARTS, Format, read_forecasts, read_quarantine
from pipelines.sinks.flat_forecasts import FlatFormat
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.replay import ReplaySource
from tests.comparisons import YOUNG, assert_same, assert_same_frames, assert_same_scores, by_key, sorted_rows
from tests.disks import Disk, outputs
from tests.fleets import HALF_A_DAY, HOUR, SHORT_WEEK, forecaster, rows_of, scales
from tests.folds import Ran, fold
from tests.logs import LogOutputs, half_of, job_of, small_log
from tests.outputs import assert_flat_as_nested
from tests.partitions import LONG_GAP, Logs, all_logs, cut, interleaved
from tests.power import PowerLoss
from tests.simulated_kills import KillableProcess, Killed

Steps = Callable[[Shard, Iterable[Batch], int], Iterator[tuple[Shard, Output]]]
"""A function that applies batches to a shard and yields outputs, such as `tests.disks.outputs`.

Its arguments are the shard, the batches, and the largest number of windows in one step.
"""


def fold_with_kills(
    model: Forecaster, logs: Logs, shards: int, kills: int, draw: Any, steps: Steps | None = None
) -> Ran:
    """Apply logs to shards in ``kills + 1`` runs; return the last shards and the outputs that remain.

    Each run except the last ends after a drawn number of outputs, or with the logs. The next run restores
    each shard from its snapshot, and removes the outputs that were written after the snapshot.

    Args:
        model: the forecaster.
        logs: the logs that the job reads.
        shards: the number of shards.
        kills: how often the job is killed.
        draw: the function of Hypothesis that draws a value from a strategy.
        steps: the function that applies batches to a shard; by default, `tests.disks.outputs` with ``model``.
    """
    steps = steps or partial(outputs, model)
    disks = [Disk() for _ in range(shards)]
    for run_number in range(kills + 1):
        opened = [
            disk.restore(Shard.cold(number, shards, model.initial_state(), logs.partitions))
            for number, disk in enumerate(disks)
        ]
        starts = {name: min(shard.offsets[name] for shard in opened) for name in logs.partitions}
        parts = [cut(draw, log, starts[log.partition]) for log in logs.parts]
        # Begin each partition with a batch without rows, as `Reader` does.
        # Even if no row follows, this batch closes the windows that the watermark had passed before the kill.
        announced = [empty_batch(name, start) for name, start in starts.items()]
        chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        per_step = draw(st.integers(1, 9))
        running = {
            shard.number: steps(shard, [*announced, *interleaved(draw, parts, early=True)], per_step)
            for shard in opened
        }
        left = 10**9 if run_number == kills else draw(st.integers(0, 100))
        often = draw(st.sampled_from([0.05, 0.5]))
        while running and left:
            number = int(chance.choice([*running]))
            step = next(running[number], None)
            if step is None:
                del running[number]
                continue
            left -= 1
            opened[number], output = step
            disks[number].write(output)
            # Write no snapshot in the last run, because no later run would restore it.
            if chance.random() < often and run_number < kills:
                disks[number].snapshot = opened[number].copy()
    return Ran(
        opened,
        [one for disk in disks for one in (*disk.forecasts.values(), *disk.revised.values())],
        [rows for disk in disks for rows in disk.late.values()],
        [rows for disk in disks for rows in disk.quarantined.values()],
        shadows=[one for disk in disks for one in (*disk.shadows.values(), *disk.revised_shadows.values())],
    )


@pytest.mark.parametrize(("max_gap", "aggregate"), [(3, "sum"), (LONG_GAP, "sum"), (3, "mean")])
@settings(max_examples=8)
@given(logs=all_logs(), shards=st.integers(1, 4), kills=st.integers(1, 4), data=st.data())
def test_a_killed_and_resumed_job_writes_every_output_once(
    max_gap: int, aggregate: str, logs: Logs, shards: int, kills: int, data: st.DataObject
) -> None:
    model = forecaster(aggregate=aggregate, max_gap=max_gap, **SHORT_WEEK)
    clean = fold(model, logs.one_by_one(), shards, partitions=logs.partitions)
    killed = fold_with_kills(model, logs, shards, kills, data.draw)

    assert killed.counts == clean.counts
    assert_same_scores(killed.counts.scores, clean.counts.scores)
    assert clean.counts.missing == clean.counts.pending == 0
    scale = logs.scale_of_sums() if aggregate == "sum" else logs.scale
    assert_same(by_key(clean.forecasts), by_key(killed.forecasts), scale, within=YOUNG)
    assert sorted_rows(killed.late).equals(sorted_rows(clean.late))
    assert sorted_rows(killed.quarantined).equals(sorted_rows(clean.quarantined))


_IGNORED = (".numbers", ".lock", ".ended", ".run")  # prefixes of paths that do not influence a resumed run


def test_a_stream_resumes_after_a_kill_or_a_power_loss(tmp_path: Path) -> None:
    (log, scale), output, clean = small_log(), tmp_path / "out", tmp_path / "clean"
    whole = LogOutputs(clean, run_stream(job_of(log, clean)).counts, scale)
    run_stream(job_of(log, output, stop=half_of(log)))
    power = PowerLoss(output, _IGNORED, every_prefix=False, slow=PARTS)
    with power.record():
        # Resume with 2 shards: the run first replaces the state table of 1 shard by one of 2 shards.
        run_stream(job_of(log, output, shards=2))
    for files in random.Random(4).sample(power.states, 12):
        power.restore(files)
        ended = run_stream(job_of(log, output, shards=2, windows_per_step=3))
        whole.assert_same(output, ended.counts)


def test_a_replay_resumes_after_a_power_loss_in_its_first_run(tmp_path: Path) -> None:
    (log, scale), path = small_log(), tmp_path / "rows.csv"
    log.rows.drop("offset").write_csv(path)

    def job(output: Path) -> StreamJob:
        source = ReplaySource(
            (str(path),), Input(Columns()), HALF_A_DAY, windows_per_step=3, manifest_folder=output / "state"
        )
        return replace(job_of(log, output), source=source)

    whole = LogOutputs(tmp_path / "clean", run_stream(job(tmp_path / "clean")).counts, scale)
    power = PowerLoss(tmp_path / "out", _IGNORED, every_prefix=False, slow=PARTS)
    (tmp_path / "out").mkdir()
    with power.record():
        run_stream(job(tmp_path / "out"))
    for files in random.Random(5).sample(power.states, 8):
        power.restore(files)
        whole.assert_same(tmp_path / "out", run_stream(job(tmp_path / "out")).counts)


@settings(max_examples=3)
@given(
    kills=st.lists(st.tuples(st.integers(0, 60), st.booleans(), st.integers(1, 9)), min_size=1, max_size=4),
    shards=st.integers(1, 3),
    format_=st.sampled_from(["parquet", "jsonl"]),
    flat=st.sampled_from([None, "csv", "parquet", "jsonl"]),
)
def test_a_stream_killed_at_any_file_rename_loses_nothing(
    small_fleet: Windows,
    kills: list[tuple[int, bool, int]],
    shards: int,
    format_: Format,
    flat: FlatFormat | None,
) -> None:
    model = forecaster()
    with tempfile.TemporaryDirectory() as name:
        path, output, clean = (Path(name) / part for part in ("rows.csv", "out", "clean"))
        rows = rows_of(small_fleet).head(400)
        bad = rows.head(3).with_columns(value=float("nan"))
        pl.concat([rows.head(200), bad, rows]).sample(fraction=1, shuffle=True, seed=1).write_csv(path)
        source = ReplaySource(
            (str(path),),
            Input(Columns()),
            HOUR,
            windows_per_step=5,
            manifest_folder=output / "state",
        )
        job = StreamJob(
            model,
            source,
            output,
            shards=shards,
            windows_per_step=4,
            resume=True,
            format=format_,
            flat=flat,
            snapshot_every_s=0.0,
            runner="in-process",
        )
        killed_threads = frozenset[threading.Thread]()
        for left, after, windows_per_step in kills:
            with (
                patch("os.replace", KillableProcess(left, after, killed_threads).wrap(os.replace)),
                suppress(Killed),
            ):
                run_stream(replace(job, windows_per_step=windows_per_step))
            killed_threads = frozenset(threading.enumerate()) - {threading.current_thread()}
        with patch("os.replace", KillableProcess(10**9, True, killed_threads).wrap(os.replace)):
            ended = run_stream(job).counts
        expected = run_stream(
            replace(job, output=clean, source=replace(source, manifest_folder=clean / "state"))
        ).counts

        assert ended == expected
        assert_same_frames(read_forecasts(clean), read_forecasts(output), scales(small_fleet))
        assert read_quarantine(clean).equals(read_quarantine(output))
        # Every file of forecasts must be readable, and no forecast may be in two files.
        read = pl.read_parquet if format_ == "parquet" else pl.read_ndjson
        written = [read(file) for file in (output / "forecasts").iterdir()]
        assert sum(map(len, written)) == len(read_forecasts(clean))
        if flat is not None:
            assert_flat_as_nested(output, HOUR)
