"""Tests of jobs that write to an object store: the same results as on a disk, replacement, stops, kills."""

from __future__ import annotations

import os
import signal
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
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.reader import request_stop
from pipelines.sources.replay import ReplaySource
from pipelines.state import state_table
from pipelines.storage import BACKFILL, Location, Remote, complete_replacement
from schemas.errors import OutputError
from tests.comparisons import assert_same_frames
from tests.fleets import HOUR, START, forecaster, rows_of, scales
from tests.forked import ForkedProcess
from tests.stores import in_memory, keys

FLEET = Windows(tuple("abcde"), START, np.random.default_rng(1).normal(size=(60, 5)).cumsum(axis=0))
DEFAULT_INPUT = Input(Columns())


@pytest.fixture
def store() -> Iterator[Remote]:
    """Yield an empty folder of an object store in memory, so that these tests need no server."""
    with in_memory() as place:
        yield place


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Write the rows of the fleet to two files and return their paths; the first file has an invalid row."""
    rows, paths = rows_of(FLEET), (tmp_path / "1.csv", tmp_path / "2.csv")
    rows.head(150).write_csv(paths[0])
    with paths[0].open("a") as file:
        file.write("a,2013-01-01T00:00:00Z,much\n")
    rows.tail(150).write_csv(paths[1])
    return str(paths[0]), str(paths[1])


def backfill(paths: tuple[str, ...], output: Location, **options: Any) -> BackfillJob:
    return BackfillJob(forecaster(), paths, DEFAULT_INPUT, output, **{"shards": 3, **options})


def stream(paths: tuple[str, ...], output: Location, speed: float = 0.0, **options: Any) -> StreamJob:
    source = ReplaySource(paths, DEFAULT_INPUT, HOUR, speed=speed, manifest_folder=output / "state")
    return StreamJob(
        forecaster(), source, output, **{"shards": 3, "runner": "in-process", "resume": True, **options}
    )


def test_jobs_write_the_same_results_to_s3_and_disk(
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


def test_a_backfill_replaces_earlier_output_and_deletes_temporary_files(
    files: tuple[str, str], store: Remote
) -> None:
    run_backfill(backfill(files, store))
    run_backfill(backfill(files[1:], store, shards=2))
    assert len(read_forecasts(store)) == 150
    assert [path.name for path in (store / "state").glob("*")] == [
        f"shard-{number:04d}-of-0002.parquet" for number in range(2)
    ]
    assert not keys(store / BACKFILL)


def test_an_interrupted_backfill_neither_adds_nor_removes_stored_objects(
    files: tuple[str, str], store: Remote
) -> None:
    run_backfill(backfill(files, store))
    before = keys(store)

    def interrupt(numbers: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_backfill(backfill(files, store, shards=5), interrupt)
    assert [key for key in keys(store) if ".lock" not in key] == [key for key in before if ".lock" not in key]


class ProcessDied(BaseException):
    """Raised to simulate the death of a process.

    It is not an `Exception`, so that no code of the job catches it.
    """


def die_after_copies(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a backfill raise `ProcessDied` while it moves its new output to the output folder.

    The error is raised after ``at`` objects have been copied.
    """
    copy, copies = Remote.copy, 0

    def die(self: Remote, target: Remote) -> None:
        nonlocal copies
        if BACKFILL in self.url and f"{BACKFILL}/.state" not in self.url:
            copies += 1
            if copies > at:
                raise ProcessDied
        copy(self, target)

    monkeypatch.setattr(Remote, "copy", die)


@pytest.mark.parametrize("at", [0, 1, 4])
def test_new_output_is_readable_after_a_kill_during_replacement(
    files: tuple[str, str], store: Remote, tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_backfill(backfill(files[:1], store))
    run_backfill(backfill(files, tmp_path / "clean", shards=2))
    die_after_copies(at, monkeypatch)
    with pytest.raises(ProcessDied):
        run_backfill(backfill(files, store, shards=2))
    monkeypatch.undo()

    def assert_new_output() -> None:
        assert_same_frames(read_forecasts(tmp_path / "clean"), read_forecasts(store), scales(FLEET))
        assert len(state_table.read(store / "state").shards) == 2
        assert len(read_quarantine(store)) == 1

    assert_new_output()
    complete_replacement(store / BACKFILL, store)
    assert_new_output()
    assert not keys(store / BACKFILL)
    assert sum(key.startswith("state/") for key in keys(store)) == 2


def test_a_stop_file_in_a_store_stops_a_stream(files: tuple[str, str], store: Remote) -> None:
    job = stream(files, store, speed=3600.0)
    outcome = run_stream(job, lambda numbers: request_stop(job.stop_file))
    assert outcome.stopped
    assert not job.stop_file.exists()
    assert run_stream(replace(job, source=stream(files, store).source)).counts.used == 300


def test_a_second_job_on_the_same_output_is_refused(files: tuple[str, str], store: Remote) -> None:
    def begin_second_job(numbers: object) -> None:
        with pytest.raises(OutputError, match="is writing here"):
            run_stream(stream(files, store))

    run_stream(stream(files, store), begin_second_job)


_CHILD = """
import sys
from pipelines.jobs.forecast import run_stream
from pipelines.storage import location
from tests.pipelines.jobs.test_remote import stream
run_stream(stream(tuple(sys.argv[2:]), location(sys.argv[1]), speed=7_200.0, snapshot_every_s=0.3))
"""


def test_a_killed_stream_into_s3_resumes_with_equal_results(
    files: tuple[str, str], s3: Remote, tmp_path: Path
) -> None:
    process = ForkedProcess(["-c", _CHILD, str(s3), *files])
    try:
        deadline_s = time.monotonic() + 120
        while _offset(s3) < 15:
            assert process.poll() is None, "the stream ended before it could be killed"
            assert time.monotonic() < deadline_s
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
    """Return the offset from which a job resumes the replay in an output folder; 0 without a snapshot."""
    table = place / "state"
    return state_table.read(table).offset("replay") if state_table.exists(table) else 0
