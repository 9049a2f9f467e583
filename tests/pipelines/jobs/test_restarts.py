"""Tests of jobs whose engine dies: the job starts the engine again.

A stream then resumes from its last snapshots, and a backfill starts over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forecaster.shards.batch import Batch
from forecaster.shards.sharding import Splitter
from forecaster.time.windows import Windows
from pipelines.jobs import run_once
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, StreamJob
from pipelines.runners.base import Run
from pipelines.runners.in_process import run_in_process
from pipelines.sinks.files import read_forecasts
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.reader import Read, Reader
from pipelines.sources.replay import ReplaySource
from pipelines.state import state_table
from pipelines.storage import Location, markers, write_text
from pipelines.workers.worker import Workers
from schemas.errors import EngineLost
from tests.comparisons import assert_same_frames
from tests.fleets import HOUR, START, forecaster, rows_of, scales
from tests.outputs import contents
from tests.stores import in_memory, keys

CHANCE = np.random.default_rng(1)
FLEET = Windows(tuple("abcde"), START, CHANCE.normal(size=(60, 5)).cumsum(axis=0))


def fleet_file(tmp_path: Path) -> Path:
    """Write the rows of the fleet to a file if the file does not exist yet, and return its path."""
    path = tmp_path / "rows.parquet"
    if not path.exists():
        rows_of(FLEET).write_parquet(path)
    return path


def stream(tmp_path: Path, name: str, speed: float, restarts: int) -> StreamJob:
    path = fleet_file(tmp_path)
    source = ReplaySource((str(path),), Input(Columns()), HOUR, speed=speed)
    return StreamJob(
        forecaster(), source, tmp_path / name, shards=2, runner="in-process", restarts=restarts,
        snapshot_every_s=0.2, threads=1,
    )  # fmt: skip


class DyingEngine:
    """An engine whose first ``deaths`` runs die, each after it has written new snapshots.

    The list ``first_offsets`` has the offset at which each run started.
    """

    def __init__(self, deaths: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.deaths_left = deaths
        self.first_offsets: list[int] = []
        monkeypatch.setattr(run_once, "_engine", lambda job: self.run)

    def run(self, run: Run, on_progress: Callable[[], None]) -> None:
        ((partition, place),) = run.places.items()
        self.first_offsets.append(place.offset)

        def die_after_snapshots() -> None:
            on_progress()
            reached = state_table.read(run.settings.states).offset(partition)
            if self.deaths_left and reached > place.offset:
                self.deaths_left -= 1
                raise EngineLost("the engine has died")

        run_in_process(run, die_after_snapshots)


def test_restarts_after_engine_deaths_do_not_change_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_stream(stream(tmp_path, "quiet", 0.0, 0))
    engine = DyingEngine(2, monkeypatch)
    notices: list[str] = []
    outcome = run_stream(stream(tmp_path, "mortal", 3600 * 10.0, 2), on_restart=notices.append)
    first, second, third = engine.first_offsets
    assert 0 == first < second < third
    assert [line.partition(" (")[0] for line in notices] == [
        "the engine has died: resuming from the last snapshots"
    ] * 2
    assert outcome.counts == expected.counts
    assert_same_frames(read_forecasts(expected.output), read_forecasts(outcome.output), scales(FLEET))


def test_a_stream_raises_engine_lost_after_repeated_engine_deaths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DyingEngine(9, monkeypatch)
    with pytest.raises(EngineLost, match="has died: run the same command with --resume"):
        run_stream(stream(tmp_path, "mortal", 3600 * 10.0, 1))


def test_a_backfill_starts_over_after_its_engine_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = BackfillJob(
        forecaster(), (str(fleet_file(tmp_path)),), Input(Columns()), tmp_path / "quiet", shards=2
    )
    expected = run_backfill(job)
    strays: list[Location] = []

    def run_and_die(run: Run, on_progress: Callable[[], None]) -> None:
        assert [path for path in strays if path.exists()] == []
        run_in_process(run, on_progress)
        if len(strays) < 2:  # add a file to the output of the run that dies; the next run must delete it
            strays.append(run.settings.output / "forecasts" / f"{len(strays)}.parquet")
            strays[-1].write_bytes(b"")
            raise EngineLost("the engine has died")

    monkeypatch.setattr(run_once, "_engine", lambda job: run_and_die)
    notices: list[str] = []
    outcome = run_backfill(replace(job, output=tmp_path / "mortal", restarts=2), on_restart=notices.append)
    assert notices == [f"the engine has died: starting again (restarts left: {left})" for left in (1, 0)]
    assert outcome.counts == expected.counts
    assert_same_frames(read_forecasts(expected.output), read_forecasts(outcome.output), scales(FLEET))
    assert not (outcome.output / ".backfill").exists()


def test_a_backfill_that_exhausts_its_restarts_leaves_output_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = BackfillJob(
        forecaster(), (str(fleet_file(tmp_path)),), Input(Columns()), tmp_path / "out", shards=2
    )
    run_backfill(job)
    before = contents(tmp_path / "out")

    def always_die(run: Run, on_progress: Callable[[], None]) -> None:
        run_in_process(run, on_progress)
        raise EngineLost("the engine has died")

    monkeypatch.setattr(run_once, "_engine", lambda job: always_die)
    with pytest.raises(EngineLost, match=r"has died: .*out is unchanged; run the same command again"):
        run_backfill(replace(job, restarts=1))
    assert contents(tmp_path / "out") == before


def test_a_worker_of_a_replaced_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost_workers: list[Workers] = []
    batches: list[Batch] = []
    split = Splitter(2).split

    def lose_first_run(run: Run, on_progress: Callable[[], None]) -> None:
        if lost_workers:
            return run_in_process(run, on_progress)
        reader, read = Reader(run.log, run.stop_file, float("inf")), Read((), run.places, 0.0, False)
        while not read.ended:
            read = reader.next(read.places)
            batches.extend(read.batches)
        lost_workers.append(Workers(run.settings))
        apply_batches(2)
        raise EngineLost("the engine has died")

    def apply_batches(count: int) -> None:
        for batch in batches[:count]:
            for number, part in split(batch).items():
                lost_workers[0].put(number, part)
        lost_workers[0].wait()
        del batches[:count]

    monkeypatch.setattr(run_once, "_engine", lambda job: lose_first_run)
    with in_memory() as store:
        job = BackfillJob(
            forecaster(), (str(fleet_file(tmp_path)),), Input(Columns()), store, shards=2, restarts=1
        )
        run_backfill(job)
        before = keys(store)
        apply_batches(len(batches))
        assert keys(store) == before


def test_a_stream_writes_no_forecasts_after_another_run_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_after_takeover(run: Run, on_progress: Callable[[], None]) -> None:
        settings = run.settings
        write_text(settings.output / markers.OWNER, "another run")
        run_in_process(run, on_progress)

    monkeypatch.setattr(run_once, "_engine", lambda job: run_after_takeover)
    job = stream(tmp_path, "over", 0.0, 0)
    run_stream(job)
    assert list((job.output / "forecasts").glob("*")) == []
