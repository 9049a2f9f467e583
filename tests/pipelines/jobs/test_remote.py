"""Jobs whose outputs lie in an object store, beside the same on a disk."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, StreamJob
from pipelines.sinks.files import read_forecasts, read_quarantine
from pipelines.sinks.replace_output import end_replacing
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.reader import ask_to_stop
from pipelines.sources.replay import ReplaySource
from pipelines.state import state_table
from pipelines.storage import BACKFILL, Location, Remote
from schemas.errors import OutputError
from tests.fleets import HOUR, START, forecaster, rows_of, scales
from tests.processes import started
from tests.same import assert_same_frames
from tests.stores import in_memory, keys

FLEET = Windows(tuple("abcde"), START, np.random.default_rng(1).normal(size=(60, 5)).cumsum(axis=0))
ALL = Input(Columns())


@pytest.fixture
def store() -> Iterator[Remote]:
    """An empty prefix in memory: what is about order and death needs no server."""
    with in_memory() as place:
        yield place


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """The fleet in two files, the first with a row that is none."""
    rows, paths = rows_of(FLEET), (tmp_path / "1.csv", tmp_path / "2.csv")
    rows.head(150).write_csv(paths[0])
    with paths[0].open("a") as file:
        file.write("a,2013-01-01T00:00:00Z,much\n")
    rows.tail(150).write_csv(paths[1])
    return str(paths[0]), str(paths[1])


def backfill(paths: tuple[str, ...], output: Location, **options: Any) -> BackfillJob:
    return BackfillJob(forecaster(), paths, ALL, output, **{"shards": 3, **options})


def stream(paths: tuple[str, ...], output: Location, speed: float = 0.0, **options: Any) -> StreamJob:
    source = ReplaySource(paths, ALL, HOUR, speed=speed, manifest_folder=output / "state")
    return StreamJob(
        forecaster(), source, output, **{"shards": 3, "runner": "in-process", "resume": True, **options}
    )


def test_a_backfill_and_a_stream_from_it_are_the_same_in_a_store_as_on_a_disk(
    files: tuple[str, str], s3: Remote, tmp_path: Path
) -> None:
    places: tuple[Location, ...] = (tmp_path / "out", s3)
    ended = []
    for place in places:
        first = run_backfill(backfill(files[:1], place, format="jsonl"))
        more = stream(files[1:], place, state_table=place / "state", resume=False)
        ended.append((first.counts, run_stream(more).counts, run_stream(replace(more, resume=True)).counts))
    assert ended[0] == ended[1]
    assert_same_frames(read_forecasts(places[0]), read_forecasts(s3), scales(FLEET))
    assert read_quarantine(places[0]).equals(read_quarantine(places[1]))
    assert state_table.read(s3 / "state").closed_through == START + 59


def test_a_backfill_replaces_what_was_there_and_clears_up(files: tuple[str, str], store: Remote) -> None:
    run_backfill(backfill(files, store))
    run_backfill(backfill(files[1:], store, shards=2))
    assert len(read_forecasts(store)) == 150
    assert [path.name for path in (store / "state").glob("*")] == [
        f"shard-{number:04d}-of-0002.parquet" for number in range(2)
    ]
    assert not keys(store / BACKFILL)


def test_a_backfill_that_fails_leaves_what_was_there(files: tuple[str, str], store: Remote) -> None:
    run_backfill(backfill(files, store))
    before = keys(store)

    def interrupt(numbers: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_backfill(backfill(files, store, shards=5), interrupt)
    assert [key for key in keys(store) if ".lock" not in key] == [key for key in before if ".lock" not in key]


class Dead(BaseException):
    """What stands for the death of a process."""


def dying(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the process die at one of the copies that put a backfill in place."""
    copy, made = Remote.copy, 0

    def die(self: Remote, target: Remote) -> None:
        nonlocal made
        if BACKFILL in self.url and f"{BACKFILL}/.state" not in self.url:
            made += 1
            if made > at:
                raise Dead
        copy(self, target)

    monkeypatch.setattr(Remote, "copy", die)


@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_reader_sees_all_of_a_backfill_that_died_while_it_was_put_in_place(
    files: tuple[str, str], store: Remote, tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_backfill(backfill(files[:1], store))
    run_backfill(backfill(files, tmp_path / "clean", shards=2))
    dying(at, monkeypatch)
    with pytest.raises(Dead):
        run_backfill(backfill(files, store, shards=2))
    monkeypatch.undo()

    def is_new() -> None:
        assert_same_frames(read_forecasts(tmp_path / "clean"), read_forecasts(store), scales(FLEET))
        assert len(state_table.read(store / "state").shards) == 2
        assert len(read_quarantine(store)) == 1

    is_new()
    end_replacing(store / BACKFILL, store)
    is_new()
    assert not keys(store / BACKFILL)
    assert sum(key.startswith("state/") for key in keys(store)) == 2


def test_a_stream_stops_at_its_stop_file(files: tuple[str, str], store: Remote) -> None:
    job = stream(files, store, speed=3600.0)
    outcome = run_stream(job, lambda numbers: ask_to_stop(job.stop_file))
    assert outcome.stopped
    assert not job.stop_file.exists()
    assert run_stream(replace(job, source=stream(files, store).source)).counts.used == 300


def test_two_jobs_do_not_share_an_output(files: tuple[str, str], store: Remote) -> None:
    def begin_another(numbers: object) -> None:
        with pytest.raises(OutputError, match="is writing here"):
            run_stream(stream(files, store))

    run_stream(stream(files, store), begin_another)


_CHILD = """
import sys
from pipelines.jobs.forecast import run_stream
from pipelines.storage import location
from tests.pipelines.jobs.test_remote import stream
run_stream(stream(tuple(sys.argv[2:]), location(sys.argv[1]), speed=7_200.0, snapshot_every_s=0.3))
"""


def test_a_stream_that_was_killed_ends_as_one_that_was_not(
    files: tuple[str, str], s3: Remote, tmp_path: Path
) -> None:
    process = started([sys.executable, "-W", "ignore", "-c", _CHILD, str(s3), *files])
    try:
        until_s = time.monotonic() + 120
        while _offset(s3) < 15:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < until_s
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert 15 <= _offset(s3) < 301
    job = stream(files, s3)
    ended, clean = run_stream(job), run_stream(stream(files, tmp_path / "clean"))
    assert ended.counts == clean.counts
    assert_same_frames(read_forecasts(clean.output), read_forecasts(s3), scales(FLEET))
    assert read_quarantine(clean.output).equals(read_quarantine(s3))


def _offset(place: Remote) -> int:
    table = place / "state"
    return state_table.read(table).offset("replay") if state_table.exists(table) else 0
