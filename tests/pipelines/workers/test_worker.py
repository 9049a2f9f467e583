from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from forecaster.forecasts import Forecasts
from forecaster.model import Forecaster
from forecaster.shards.batch import Batch
from forecaster.shards.shard import Shard
from forecaster.shards.sharding import Splitter, no_batch
from forecaster.time.windows import Windows
from pipelines import storage
from pipelines.sinks import files, numbers
from pipelines.sinks.files import PARTS, read_forecasts, read_late, read_quarantine
from pipelines.state import snapshot_file, state_table
from pipelines.storage import Remote, make_folder
from pipelines.workers import shard_worker
from pipelines.workers.ownership import take_over
from pipelines.workers.step_settings import StepSettings
from pipelines.workers.worker import Workers, end_job, of_job
from schemas import quarantine
from schemas.errors import OutputError
from tests.fleets import HOUR_US, START, forecaster, rows_of
from tests.folds import Arrival, batches_of
from tests.stores import in_memory

PATIENCE_S = 30.0


def fail() -> None:
    raise OutputError("the disk is full")


@pytest.fixture
def settings(tmp_path: Path) -> StepSettings:
    """Of a job of three shards, whose table has just been put there."""
    made = StepSettings("a job", forecaster().to_bytes(), 3, 4, tmp_path, "parquet", 2, resumed=False)
    begin(made)
    return made


def begin(settings: StepSettings, model: Forecaster | None = None) -> None:
    for part in PARTS:
        make_folder(settings.output / part)
    cold = (model or forecaster()).initial_state()
    state_table.begin(settings.states, settings.shards, None, cold)


def log(windows: int = 6, arrived_s: float = 0.0) -> list[Batch]:
    """A batch a window, of which each closes its own; the second has a late row and a rejected one."""
    values = np.random.default_rng(0).normal(size=(windows, 6))
    names = tuple(f"s{i}" for i in range(6))
    arrivals = [
        Arrival(rows_of(Windows(names, START + w, values[w : w + 1])), (START + w + 1) * HOUR_US)
        for w in range(windows)
    ]
    late = rows_of(Windows(("s0",), START, np.ones((1, 1))))
    arrivals[1] = arrivals[1]._replace(rows=pl.concat([arrivals[1].rows, late]))
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


def until(condition: Callable[[], bool]) -> None:
    """Waits for what other threads do."""
    given_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < given_up_s
        time.sleep(0.005)


def ended(batches: list[Batch]) -> list[Batch]:
    stop = batches[-1].stop
    return [*batches, no_batch("rows", stop, snapshot=True, ends=True)]


def test_what_comes_of_batches_is_written_and_told(settings: StepSettings) -> None:
    run(settings, ended(log()))
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
    told = numbers.JobNumbers.of(numbers.read_shards(settings.output))
    assert told.counts == table.counts
    assert told.closed_us == (START + 6) * HOUR_US
    assert told.series == told.live == 6
    assert told.snapshot_at_s > 0
    assert told.latency.count == 0  # nobody waited for these rows
    assert numbers.applied(settings.output, 3) == {"rows": 37}


def test_latency_counts_for_rows_that_somebody_waits_for(settings: StepSettings) -> None:
    run(settings, ended(log(arrived_s=1.0)))
    latency = numbers.JobNumbers.of(numbers.read_shards(settings.output)).latency
    shards_with_series = sum(len(shard.state) > 0 for shard in state_table.read(settings.states).shards)
    assert latency.count == 6 * shards_with_series
    assert latency.quantile_ms(0.5) > 500_000


def test_whose_a_store_is_is_asked_where_something_is_to_be_written(
    settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    read_bytes = Remote.read_bytes

    def noted(self: Remote) -> bytes:
        asked.append(self.name)
        return read_bytes(self)

    with in_memory() as store:
        remote = replace(settings, output=store)
        begin(remote)
        take_over(remote)
        monkeypatch.setattr(Remote, "read_bytes", noted)
        run(remote, [no_batch("rows", 0)] * 200)
    assert (
        3 <= asked.count(".run") <= 30
    )  # its numbers are due now and then, see `PUBLISHED_REMOTELY_EVERY_S`


def test_a_shard_goes_on_from_its_snapshot_and_drops_what_it_has(settings: StepSettings) -> None:
    batches = log()
    run(settings, ended(batches[:3]))
    before = read_forecasts(settings.output)
    assert len(before) == 18
    run(replace(settings, job="again", resumed=True), ended(batches))
    assert len(read_forecasts(settings.output)) == 36
    assert len(read_late(settings.output)) == 1
    counts = state_table.read(settings.states).counts
    assert (counts.used, counts.late, counts.rejected, counts.missing) == (36, 1, 1, 0)


def test_what_was_written_after_the_last_snapshot_is_removed_and_written_again(
    settings: StepSettings,
) -> None:
    batches = log()
    run(settings, ended(batches[:3]))
    run(replace(settings, job="killed"), batches[3:])  # it ends without a snapshot
    assert len(read_forecasts(settings.output)) == 36
    run(replace(settings, job="again", resumed=True), batches[:3])
    assert len(read_forecasts(settings.output)) == 18
    run(replace(settings, job="more", resumed=True), ended(batches))
    assert len(read_forecasts(settings.output)) == 36


def test_a_snapshot_is_written_after_all_that_it_takes_for_granted(
    settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    synced: list[Path] = []
    write, sync = snapshot_file.write_shard, storage.sync

    def look(folder: Path, shard: Shard, is_ours: Callable[[], bool]) -> bool:
        mine = [path for path in synced if f"shard-{shard.number:04d}-" in path.name]
        seen.append((shard.counts.series_steps, sum(len(pl.read_parquet(path)) for path in mine)))
        return write(folder, shard, is_ours)

    def note(written: list[Path]) -> None:
        sync(written)
        synced.extend(path for path in written if path.parent.name == "forecasts")

    monkeypatch.setattr(snapshot_file, "write_shard", look)
    monkeypatch.setattr("pipelines.workers.shard_worker.sync", note)
    workers = Workers(settings)
    for number, batch in enumerate(log()):
        put(workers, batch, no_batch("rows", batch.stop, snapshot=True))
        # nothing more comes: each shard is told when it is its turn
        until(lambda number=number: len(seen) == 3 * (number + 1))  # type: ignore[misc]
    put(workers, no_batch("rows", batch.stop, snapshot=True, ends=True))
    workers.close()
    assert len(seen) == 3 * 7
    assert all(steps == on_disk for steps, on_disk in seen)


def test_a_snapshot_in_the_background_holds_the_moment_it_was_copied_and_one_is_in_memory_at_a_time(
    settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, kept = threading.Event(), list[tuple[int, set[int]]]()
    alive, most = list[weakref.ref[Shard]](), list[int]()
    copy, write = Shard.copy, snapshot_file.write_shard

    def copied(shard: Shard) -> Shard:
        made = copy(shard)
        alive.append(weakref.ref(made))
        most.append(sum(one() is not None for one in alive))
        return made

    def late(folder: Path, shard: Shard, is_ours: Callable[[], bool]) -> bool:
        assert free.wait(PATIENCE_S)
        kept.append((shard.offsets["rows"], set(shard.state.clock.tolist())))
        return write(folder, shard, is_ours)

    monkeypatch.setattr(Shard, "copy", copied)
    monkeypatch.setattr(snapshot_file, "write_shard", late)
    batches, workers = log(), Workers(settings)
    put(workers, *batches[:2], no_batch("rows", batches[1].stop, snapshot=True))
    workers.wait()
    put(workers, *batches[2:])
    workers.wait()  # all is stepped, in place, and no snapshot is written yet
    assert kept == []
    assert len(read_forecasts(settings.output)) == 36
    free.set()
    until(lambda: len(kept) == settings.shards)
    workers.close()
    (first, clocks), *others = kept
    assert (first, clocks) == (batches[1].stop, {START + 1})
    assert {offset for offset, _ in others} == {batches[-1].stop}
    assert most == [1] * settings.shards


def test_no_snapshot_of_a_shard_follows_its_last_one(
    settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, free, after_its_end = threading.Event(), threading.Event(), list[bool]()
    write = snapshot_file.write_shard

    def late(folder: Path, shard: Shard, is_ours: Callable[[], bool]) -> bool:
        begun.set()
        assert free.wait(PATIENCE_S)
        after_its_end.append((settings.output / f".ended-{shard.number:04d}").exists())
        return write(folder, shard, is_ours)

    monkeypatch.setattr(snapshot_file, "write_shard", late)
    workers, batch = Workers(settings), log()[0]
    put(workers, batch, no_batch("rows", batch.stop, snapshot=True))
    assert begun.wait(PATIENCE_S)
    put(workers, no_batch("rows", batch.stop, snapshot=True, ends=True))
    free.set()
    workers.wait()
    workers.close()
    assert settings.shards < len(after_its_end)
    assert not any(after_its_end)


def test_a_state_of_other_weights_is_re_warmed(settings: StepSettings) -> None:
    run(settings, ended(log()))
    other = forecaster(seed=1)
    swapped = replace(settings, job="swapped", forecaster=other.to_bytes(), resumed=True)
    run(swapped, ended(log(8)[6:]))
    versions = read_forecasts(settings.output)["model_version"].value_counts().rows()
    assert sorted(versions) == sorted([(forecaster().version, 36), (other.version, 12)])
    assert state_table.read(settings.states).state.model_version == other.version


def test_what_goes_wrong_in_a_shard_reaches_whoever_waits(
    settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.ShardFiles, "write_forecasts", lambda *given: fail())
    workers = Workers(settings)
    for number, part in Splitter(3).split(log()[0]).items():
        workers.put(number, part)
    with pytest.raises(OutputError, match="the disk is full"):
        workers.wait()
    with pytest.raises(OutputError, match="the disk is full"):
        workers.close()


def test_a_snapshot_is_told_of_where_no_batch_follows_it(settings: StepSettings) -> None:
    workers = Workers(settings)
    for batch in (log()[0], no_batch("rows", log()[0].stop, snapshot=True)):
        for number, part in Splitter(settings.shards).split(batch).items():
            workers.put(number, part)
    workers.wait()
    until_s = time.monotonic() + PATIENCE_S
    while not all(told.snapshot_at_s for told in numbers.read_shards(settings.output)):
        assert time.monotonic() < until_s
        time.sleep(0.01)
    assert sum(told.counts.rows_in for told in numbers.read_shards(settings.output)) == 6
    workers.close()


def test_what_goes_wrong_with_a_snapshot_in_the_background_reaches_the_jobs_end(
    settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_file, "write_shard", lambda *given: fail())
    workers = Workers(settings)
    workers.put(0, no_batch("rows", 0, snapshot=True))
    workers.wait()
    with pytest.raises(OutputError, match="the disk is full"):
        workers.close()


@pytest.mark.parametrize("in_one_batch", [False, True])
def test_workers_that_are_abandoned_leave_undone_what_has_not_begun(
    settings: StepSettings, monkeypatch: pytest.MonkeyPatch, in_one_batch: bool
) -> None:
    begun, free = threading.Event(), threading.Event()
    write = files.ShardFiles.write_forecasts

    def slow(self: files.ShardFiles, forecasts: Forecasts) -> None:
        begun.set()
        assert free.wait(PATIENCE_S)
        write(self, forecasts)

    monkeypatch.setattr(files.ShardFiles, "write_forecasts", slow)
    workers = Workers(replace(settings, lanes=1, windows_per_step=1))
    batches = log()[:2]
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


def test_a_job_has_its_workers_once_and_forgets_them_at_its_end(settings: StepSettings) -> None:
    first = of_job(settings)
    assert of_job(settings) is first
    other = of_job(replace(settings, job="another"))
    assert other is not first
    assert first.is_new(2)
    assert not first.is_new(2)
    assert other.is_new(2)
    for job in ("a job", "a job", "another", "never was"):
        end_job(job)
    assert of_job(settings) is not first
    end_job(settings.job, abandon=True)


def test_a_job_that_failed_says_so_at_its_end_unless_it_is_abandoned(
    settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_worker.ShardWorker, "step", lambda *given: fail())
    for abandon in (False, True):
        of_job(settings).put(0, no_batch("rows", 0))
        if abandon:
            end_job(settings.job, abandon=True)
        else:
            with pytest.raises(OutputError, match="the disk is full"):
                end_job(settings.job)
