"""Tests of the workers of a job, which apply batches to shards and write outputs and snapshots."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from forecaster.model import Forecaster
from forecaster.shards.batch import Batch
from forecaster.shards.shard import Shard
from forecaster.shards.sharding import Splitter, empty_batch
from forecaster.time.windows import Windows
from pipelines import storage
from pipelines.sinks import files, numbers
from pipelines.sinks.files import PARTS, read_forecasts, read_late, read_quarantine
from pipelines.state import snapshot_file, state_table
from pipelines.state.first_table import write_first_table
from pipelines.storage import OwnedFile, Remote, store_of
from pipelines.workers import shard_worker
from pipelines.workers.ownership import take_ownership
from pipelines.workers.step_settings import StepSettings
from pipelines.workers.worker import Workers, end_job, workers_of_job
from schemas import quarantine
from schemas.errors import OutputError
from tests.fleets import HOUR_US, START, forecaster, rows_of
from tests.folds import Arrival, batches_of
from tests.stores import in_memory

PATIENCE_S = 30.0


def raise_error() -> None:
    raise OutputError("the disk is full")


@pytest.fixture
def settings(tmp_path: Path) -> StepSettings:
    """Return the settings of a job with three shards and an empty state table."""
    made = StepSettings("a job", forecaster().to_bytes(), 3, 4, tmp_path, "parquet", 2, resumed=False)
    begin(made)
    return made


def begin(settings: StepSettings, model: Forecaster | None = None) -> None:
    for part in PARTS:
        store_of(settings.output / part).make_folder()
    cold = (model or forecaster()).initial_state()
    write_first_table(settings.states, settings.shards, None, cold)


def batches_of_windows(windows: int = 6, arrived_s: float = 0.0) -> list[Batch]:
    """Return batches, each of which closes one window.

    The second batch also contains a late row and a rejected row.
    """
    values = np.random.default_rng(0).normal(size=(windows, 6))
    names = tuple(f"s{i}" for i in range(6))
    arrivals = [
        Arrival(rows_of(Windows(names, START + w, values[w : w + 1])), (START + w + 1) * HOUR_US)
        for w in range(windows)
    ]
    late_row = rows_of(Windows(("s0",), START, np.ones((1, 1))))
    arrivals[1] = arrivals[1]._replace(rows=pl.concat([arrivals[1].rows, late_row]))
    made = batches_of(arrivals)
    bad = quarantine.whole_file("f.csv", "no column", 7).with_columns(row=pl.lit(3, pl.Int64))
    made[1] = replace(made[1], rejected=bad)
    return [replace(batch, arrived_s=arrived_s) for batch in made]


def run(settings: StepSettings, batches: list[Batch]) -> None:
    workers = Workers(settings)
    put(workers, *batches)
    workers.close()


def put(workers: Workers, *batches: Batch) -> None:
    splitter = Splitter(workers.settings.shards)
    for batch in batches:
        for number, part in splitter.split(batch).items():
            workers.put(number, part)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until other threads have made ``condition`` return True."""
    given_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < given_up_s
        time.sleep(0.005)


def with_last_snapshot(batches: list[Batch]) -> list[Batch]:
    stop = batches[-1].stop
    return [*batches, empty_batch("rows", stop, snapshot=True, ends=True)]


def test_outputs_of_batches_are_written_and_counted(settings: StepSettings) -> None:
    run(settings, with_last_snapshot(batches_of_windows()))
    assert len(read_forecasts(settings.output)) == 36
    assert len(read_late(settings.output)) == 1
    assert read_quarantine(settings.output)["reason"].to_list() == ["no column"]
    table = state_table.read(settings.states)
    assert (table.counts.used, table.counts.late, table.counts.rejected, table.counts.missing) == (
        36,
        1,
        1,
        0,
    )
    assert table.closed_through == START + 5
    published = numbers.JobNumbers.of(numbers.read_shards(settings.output))
    assert published.counts == table.counts
    assert published.closed_us == (START + 6) * HOUR_US
    assert published.series == published.live == 6
    assert published.snapshot_at_s > 0
    assert published.latency.count == 0  # the rows have no arrival time, so no latency is measured
    assert numbers.applied(settings.output, 3) == {"rows": 37}


def test_latency_is_measured_if_rows_have_arrival_times(settings: StepSettings) -> None:
    run(settings, with_last_snapshot(batches_of_windows(arrived_s=1.0)))
    latency = numbers.JobNumbers.of(numbers.read_shards(settings.output)).latency
    shards_with_series = sum(len(shard.state) > 0 for shard in state_table.read(settings.states).shards)
    assert latency.count == 6 * shards_with_series
    assert latency.quantile_ms(0.5) > 500_000


def test_workers_do_not_check_object_store_ownership_per_batch(
    settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    names_read: list[str] = []
    read_bytes = Remote.read_bytes

    def record_read(self: Remote) -> bytes:
        names_read.append(self.name)
        return read_bytes(self)

    with in_memory() as store:
        remote = replace(settings, output=store)
        begin(remote)
        take_ownership(remote)
        monkeypatch.setattr(Remote, "read_bytes", record_read)
        run(remote, [empty_batch("rows", 0)] * 200)
    # A worker reads the owner file before it writes outputs or publishes counts. The 200 empty batches have
    # no outputs, and the counts are published only every `PUBLISHED_REMOTELY_EVERY_S` seconds.
    assert 3 <= names_read.count(".run") <= 30


def test_a_resumed_shard_skips_rows_before_its_snapshot(settings: StepSettings) -> None:
    batches = batches_of_windows()
    run(settings, with_last_snapshot(batches[:3]))
    before = read_forecasts(settings.output)
    assert len(before) == 18
    run(replace(settings, job="again", resumed=True), with_last_snapshot(batches))
    assert len(read_forecasts(settings.output)) == 36
    assert len(read_late(settings.output)) == 1
    counts = state_table.read(settings.states).counts
    assert (counts.used, counts.late, counts.rejected, counts.missing) == (36, 1, 1, 0)


def test_outputs_after_the_last_snapshot_are_deleted_and_rewritten(
    settings: StepSettings,
) -> None:
    batches = batches_of_windows()
    run(settings, with_last_snapshot(batches[:3]))
    run(replace(settings, job="killed"), batches[3:])  # this run, like a killed run, writes no snapshot
    assert len(read_forecasts(settings.output)) == 36
    run(replace(settings, job="again", resumed=True), batches[:3])
    assert len(read_forecasts(settings.output)) == 18
    run(replace(settings, job="more", resumed=True), with_last_snapshot(batches))
    assert len(read_forecasts(settings.output)) == 36


def test_a_snapshot_is_written_after_its_forecasts_are_synced(
    settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    synced: list[Path] = []
    write, sync = snapshot_file.write_shard, storage.sync

    def record_snapshot(folder: Path, shard: Shard, is_ours: Callable[[], bool], file: OwnedFile) -> bool:
        mine = [path for path in synced if f"shard-{shard.number:04d}-" in path.name]
        seen.append((shard.counts.series_steps, sum(len(pl.read_parquet(path)) for path in mine)))
        return write(folder, shard, is_ours, file)

    def record_sync(written: list[Path]) -> None:
        sync(written)
        synced.extend(path for path in written if path.parent.name == "forecasts")

    monkeypatch.setattr(snapshot_file, "write_shard", record_snapshot)
    monkeypatch.setattr("pipelines.workers.shard_output.sync", record_sync)
    workers = Workers(settings)
    for number, batch in enumerate(batches_of_windows()):
        put(workers, batch, empty_batch("rows", batch.stop, snapshot=True))
        # No further batch arrives, but each of the three shards must still write its snapshot.
        wait_until(lambda number=number: len(seen) == 3 * (number + 1))  # type: ignore[misc]
    put(workers, empty_batch("rows", batch.stop, snapshot=True, ends=True))
    workers.close()
    assert len(seen) == 3 * 7
    assert all(steps == on_disk for steps, on_disk in seen)


def test_a_snapshot_excludes_batches_applied_after_copying_its_shard(
    settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, snapshots = threading.Event(), list[tuple[int, set[int]]]()
    alive, most = list[weakref.ref[Shard]](), list[int]()
    copy, write = Shard.copy, snapshot_file.write_shard

    def record_copy(shard: Shard) -> Shard:
        made = copy(shard)
        alive.append(weakref.ref(made))
        most.append(sum(one() is not None for one in alive))
        return made

    def write_late(folder: Path, shard: Shard, is_ours: Callable[[], bool], file: OwnedFile) -> bool:
        assert free.wait(PATIENCE_S)
        snapshots.append((shard.offsets["rows"], set(shard.state.clock.tolist())))
        return write(folder, shard, is_ours, file)

    monkeypatch.setattr(Shard, "copy", record_copy)
    monkeypatch.setattr(snapshot_file, "write_shard", write_late)
    batches, workers = batches_of_windows(), Workers(settings)
    put(workers, *batches[:2], empty_batch("rows", batches[1].stop, snapshot=True))
    wait_until(lambda: len(alive) == 1)
    put(workers, *batches[2:])
    # The writer waits until the test sets ``free``. So all batches are applied before the first snapshot is
    # written, although this snapshot was requested after two batches.
    wait_until(lambda: len(read_forecasts(settings.output)) == 36)
    assert snapshots == []
    free.set()
    wait_until(lambda: len(snapshots) == settings.shards)
    workers.close()
    (first, clocks), *others = snapshots
    assert (first, clocks) == (batches[1].stop, {START + 1})
    assert {offset for offset, _ in others} == {batches[-1].stop}
    assert most == [1] * settings.shards  # memory holds a copy of only one shard at a time


def test_snapshot_requests_during_a_snapshot_cause_one_more_snapshot(
    settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, free, written = threading.Event(), threading.Event(), list[int]()
    write = snapshot_file.write_shard

    def write_late(folder: Path, shard: Shard, is_ours: Callable[[], bool], file: OwnedFile) -> bool:
        begun.set()
        assert free.wait(PATIENCE_S)
        written.append(shard.number)
        return write(folder, shard, is_ours, file)

    monkeypatch.setattr(snapshot_file, "write_shard", write_late)
    workers, request = Workers(settings), empty_batch("rows", 0, snapshot=True)
    put(workers, request)
    assert begun.wait(PATIENCE_S)
    put(workers, request, request, request, batches_of_windows()[0])
    wait_until(lambda: numbers.JobNumbers.of(numbers.read_shards(settings.output)).counts.series_steps == 6)
    free.set()
    workers.close()
    # The shard that wrote first writes two snapshots; each of the other two shards writes one.
    assert sorted(written) == sorted([0, 1, 2, written[0]])


def test_a_shard_writes_its_end_marker_after_all_snapshots(
    settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, free, after_its_end = threading.Event(), threading.Event(), list[bool]()
    write = snapshot_file.write_shard

    def write_late(folder: Path, shard: Shard, is_ours: Callable[[], bool], file: OwnedFile) -> bool:
        begun.set()
        assert free.wait(PATIENCE_S)
        after_its_end.append((settings.output / f".ended-{shard.number:04d}").exists())
        return write(folder, shard, is_ours, file)

    monkeypatch.setattr(snapshot_file, "write_shard", write_late)
    workers, batch = Workers(settings), batches_of_windows()[0]
    put(workers, batch, empty_batch("rows", batch.stop, snapshot=True))
    assert begun.wait(PATIENCE_S)
    put(workers, empty_batch("rows", batch.stop, snapshot=True, ends=True))
    free.set()
    workers.wait()
    workers.close()
    assert settings.shards < len(after_its_end)
    assert not any(after_its_end)


def test_a_state_of_other_model_weights_is_rewarmed(settings: StepSettings) -> None:
    run(settings, with_last_snapshot(batches_of_windows()))
    other = forecaster(seed=1)
    swapped = replace(settings, job="swapped", forecaster=other.to_bytes(), resumed=True)
    run(swapped, with_last_snapshot(batches_of_windows(8)[6:]))
    versions = read_forecasts(settings.output)["model_version"].value_counts().rows()
    assert sorted(versions) == sorted([(forecaster().version, 36), (other.version, 12)])
    assert state_table.read(settings.states).state.model_version == other.version


def test_an_error_in_a_shard_is_raised_by_wait_and_close(
    settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.ShardFiles, "write_forecasts", lambda *given: raise_error())
    workers = Workers(settings)
    for number, part in Splitter(3).split(batches_of_windows()[0]).items():
        workers.put(number, part)
    with pytest.raises(OutputError, match="the disk is full"):
        workers.wait()
    with pytest.raises(OutputError, match="the disk is full"):
        workers.close()


def test_a_snapshot_time_is_published_without_a_further_batch(settings: StepSettings) -> None:
    workers = Workers(settings)
    for batch in (batches_of_windows()[0], empty_batch("rows", batches_of_windows()[0].stop, snapshot=True)):
        for number, part in Splitter(settings.shards).split(batch).items():
            workers.put(number, part)
    workers.wait()
    until_s = time.monotonic() + PATIENCE_S
    while not all(published.snapshot_at_s for published in numbers.read_shards(settings.output)):
        assert time.monotonic() < until_s
        time.sleep(0.01)
    assert sum(published.counts.rows_in for published in numbers.read_shards(settings.output)) == 6
    workers.close()


def test_an_error_of_a_background_snapshot_is_raised_by_close(
    settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_file, "write_shard", lambda *given: raise_error())
    workers = Workers(settings)
    workers.put(0, empty_batch("rows", 0, snapshot=True))
    with pytest.raises(OutputError, match="the disk is full"):
        workers.close()


@pytest.mark.parametrize("in_one_batch", [False, True])
def test_abandon_skips_the_work_that_has_not_begun(
    settings: StepSettings, monkeypatch: pytest.MonkeyPatch, in_one_batch: bool
) -> None:
    begun, free = threading.Event(), threading.Event()
    write = files.ShardFiles.write_forecasts

    def write_slowly(self: files.ShardFiles, *given: Any) -> None:
        begun.set()
        assert free.wait(PATIENCE_S)
        write(self, *given)

    monkeypatch.setattr(files.ShardFiles, "write_forecasts", write_slowly)
    workers = Workers(replace(settings, threads=1, windows_per_step=1))
    batches = batches_of_windows()[:2]
    if in_one_batch:
        rows = pl.concat([batch.rows for batch in batches])
        batches = [replace(batches[1], start=0, rows=rows)]
    for batch in batches:
        workers.put(1, Splitter(3).split(batch)[1])
    assert begun.wait(PATIENCE_S)
    workers.abandon()
    free.set()
    workers.close()
    assert len(read_forecasts(settings.output)["issued_at"].unique()) == 1


def test_workers_of_job_returns_the_same_workers_until_end_job(settings: StepSettings) -> None:
    first = workers_of_job(settings)
    assert workers_of_job(settings) is first
    other = workers_of_job(replace(settings, job="another"))
    assert other is not first
    assert first.is_new(2)
    assert not first.is_new(2)
    assert other.is_new(2)
    for job in ("a job", "a job", "another", "never was"):
        end_job(job)
    assert workers_of_job(settings) is not first
    end_job(settings.job, abandon=True)


def test_end_job_raises_errors_of_workers_unless_the_job_is_abandoned(
    settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_worker.ShardWorker, "step", lambda *given: raise_error())
    for abandon in (False, True):
        workers_of_job(settings).put(0, empty_batch("rows", 0))
        if abandon:
            end_job(settings.job, abandon=True)
        else:
            with pytest.raises(OutputError, match="the disk is full"):
                end_job(settings.job)
