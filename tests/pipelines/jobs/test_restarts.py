"""Where an engine dies and not the job's own process, the stream goes on by itself, as after a kill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forecaster.shards.batch import Batch
from forecaster.shards.sharding import Splitter
from forecaster.time.windows import Windows
from pipelines.jobs import forecast
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
from pipelines.storage import Location, write_text
from pipelines.workers import ownership
from pipelines.workers.worker import Workers
from schemas.errors import EngineLost
from tests.fleets import HOUR, START, forecaster, rows_of, scales
from tests.outputs import contents
from tests.same import assert_same_frames
from tests.stores import in_memory, keys

CHANCE = np.random.default_rng(1)
FLEET = Windows(tuple("abcde"), START, CHANCE.normal(size=(60, 5)).cumsum(axis=0))


def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    if not path.exists():
        rows_of(FLEET).write_parquet(path)
    return path


def stream(tmp_path: Path, name: str, speed: float, restarts: int) -> StreamJob:
    path = rows(tmp_path)
    source = ReplaySource((str(path),), Input(Columns()), HOUR, speed=speed)
    return StreamJob(
        forecaster(), source, tmp_path / name, shards=2, runner="in-process", restarts=restarts,
        snapshot_every_s=0.2, lanes=1,
    )  # fmt: skip


class Mortal:
    """An engine that dies so often, each time once there are snapshots newer than those it began with."""

    def __init__(self, deaths: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = deaths
        self.began: list[int] = []
        monkeypatch.setattr(forecast, "_engine", lambda job: self.run)

    def run(self, run: Run, on_progress: Callable[[], None]) -> None:
        ((partition, place),) = run.places.items()
        self.began.append(place.offset)

        def die() -> None:
            on_progress()
            reached = state_table.read(run.settings.states).offset(partition)
            if self.left and reached > place.offset:
                self.left -= 1
                raise EngineLost("the engine is no more")

        run_in_process(run, die)


def test_a_stream_whose_engine_dies_goes_on_and_ends_as_if_it_had_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_stream(stream(tmp_path, "quiet", 0.0, 0))
    engine = Mortal(2, monkeypatch)
    told: list[str] = []
    outcome = run_stream(stream(tmp_path, "mortal", 3600 * 10.0, 2), on_restart=told.append)
    first, second, third = engine.began
    assert 0 == first < second < third
    assert [line.partition(",")[0] for line in told] == [
        "the engine is no more: going on from the last snapshots"
    ] * 2
    assert outcome.counts == expected.counts
    assert_same_frames(read_forecasts(expected.output), read_forecasts(outcome.output), scales(FLEET))


def test_a_stream_whose_engine_dies_too_often_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Mortal(9, monkeypatch)
    with pytest.raises(EngineLost, match="is no more: run the same command with --resume"):
        run_stream(stream(tmp_path, "mortal", 3600 * 10.0, 1))


def test_a_backfill_whose_engine_dies_begins_again_and_leaves_what_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = BackfillJob(forecaster(), (str(rows(tmp_path)),), Input(Columns()), tmp_path / "quiet", shards=2)
    expected = run_backfill(job)
    left: list[Location] = []

    def dying(run: Run, on_progress: Callable[[], None]) -> None:
        assert [path for path in left if path.exists()] == []
        run_in_process(run, on_progress)
        if len(left) < 2:  # all is written, and so is what a run of its own would not have left
            left.append(run.settings.output / "forecasts" / f"{len(left)}.parquet")
            left[-1].write_bytes(b"")
            raise EngineLost("the engine is no more")

    monkeypatch.setattr(forecast, "_engine", lambda job: dying)
    told: list[str] = []
    outcome = run_backfill(replace(job, output=tmp_path / "mortal", restarts=2), on_restart=told.append)
    assert told == [f"the engine is no more: beginning again, {more} more times at most" for more in (1, 0)]
    assert outcome.counts == expected.counts
    assert_same_frames(read_forecasts(expected.output), read_forecasts(outcome.output), scales(FLEET))
    assert not (outcome.output / ".backfill").exists()


def test_a_backfill_whose_engine_dies_too_often_leaves_what_was_there_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = BackfillJob(forecaster(), (str(rows(tmp_path)),), Input(Columns()), tmp_path / "out", shards=2)
    run_backfill(job)
    before = contents(tmp_path / "out")

    def dead(run: Run, on_progress: Callable[[], None]) -> None:
        run_in_process(run, on_progress)
        raise EngineLost("the engine is no more")

    monkeypatch.setattr(forecast, "_engine", lambda job: dead)
    with pytest.raises(EngineLost, match=r"no more: .*out is as it was, run the same command again"):
        run_backfill(replace(job, restarts=1))
    assert contents(tmp_path / "out") == before


def test_a_worker_of_a_lost_backfill_leaves_nothing_in_a_store_when_another_run_has_ended_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Workers] = []
    rest: list[Batch] = []
    split = Splitter(2).split

    def losing(run: Run, on_progress: Callable[[], None]) -> None:
        if lost:
            return run_in_process(run, on_progress)
        reader, read = Reader(run.log, run.stop_file, float("inf")), Read((), run.places, 0.0, False)
        while not read.ended:
            read = reader.next(read.places)
            rest.extend(read.batches)
        lost.append(Workers(run.settings))
        put(2)
        raise EngineLost("the engine is no more")

    def put(many: int) -> None:
        for batch in rest[:many]:
            for number, part in split(batch).items():
                lost[0].put(number, part)
        lost[0].wait()
        del rest[:many]

    monkeypatch.setattr(forecast, "_engine", lambda job: losing)
    with in_memory() as store:
        job = BackfillJob(forecaster(), (str(rows(tmp_path)),), Input(Columns()), store, shards=2, restarts=1)
        run_backfill(job)
        before = keys(store)
        put(len(rest))
        assert keys(store) == before


def test_a_worker_of_a_run_that_is_over_writes_nothing_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken_over_meanwhile(run: Run, on_progress: Callable[[], None]) -> None:
        settings = run.settings
        write_text(settings.output / ownership._RUN, "another run")
        run_in_process(run, on_progress)

    monkeypatch.setattr(forecast, "_engine", lambda job: taken_over_meanwhile)
    job = stream(tmp_path, "over", 0.0, 0)
    run_stream(job)
    assert list((job.output / "forecasts").glob("*")) == []
