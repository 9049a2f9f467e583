"""Streams of a small fleet that stop early, fail, or watch a folder, for tests that resume them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from pipelines.jobs.job import StreamJob
from pipelines.settings.data_config import Columns
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.base import Step
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.folder import FolderSource
from pipelines.sources.reader import request_stop
from pipelines.sources.replay import ReplaySource
from pipelines.storage import Location
from schemas.errors import DataError
from tests.fleets import HOUR, forecaster

DEFAULT_INPUT = Input(Columns())


@dataclass(frozen=True)
class StoppingSource:
    """A replay source that requests a stop of its job when it has read all rows before offset ``at``."""

    source: ReplaySource
    stop_file: Location
    at: int

    @property
    def partition(self) -> str:
        return self.source.partition

    @property
    def is_paced(self) -> bool:
        return self.source.is_paced

    def step(self, offset: int) -> Step[int] | None:
        step = self.source.step(offset)
        if step is not None and step.reached >= self.at:
            request_stop(self.stop_file)
        return step


@dataclass(frozen=True)
class FailingSource(StoppingSource):
    """A replay source that raises an error from offset ``at`` on.

    As after a kill, a resumed job then has to continue from the snapshots that were written before.
    """

    def step(self, offset: int) -> Step[int] | None:
        if offset >= self.at:
            raise DataError("the source failed on purpose")
        return self.source.step(offset)


def replay_job(output: Path, path: Path) -> StreamJob:
    """Return the job of a stream that replays one file in process, six windows in each step."""
    source = ReplaySource(
        (str(path),), DEFAULT_INPUT, HOUR, windows_per_step=6, manifest_folder=output / "state"
    )
    return StreamJob(forecaster(), source, output, shards=2, runner="in-process")


def replay_of(job: StreamJob) -> ReplaySource:
    assert isinstance(job.source, ReplaySource)
    return job.source


def stopped_at(job: StreamJob, at: int) -> StreamJob:
    """Return the job with a `StoppingSource`: it stops the job after the step that reaches offset ``at``."""
    return replace(job, source=StoppingSource(replay_of(job), job.stop_file, at))


def failing_at(job: StreamJob, at: int, every_s: float = 1e-9) -> StreamJob:
    """Return the job with ``resume`` set, and with a source that fails at offset ``at``.

    The job writes a snapshot every ``every_s`` seconds; with the default, it writes one after each step.
    """
    return replace(
        job, source=FailingSource(replay_of(job), job.stop_file, at), snapshot_every_s=every_s, resume=True
    )


def watching_folder(job: StreamJob, folder: Path, skip_bad_files: bool = False) -> StreamJob:
    """Return the job with a source that watches ``folder``."""
    folder_input = replace(DEFAULT_INPUT, skip_bad_files=skip_bad_files)
    return replace(job, source=FolderSource(folder, folder_input, job.states, poll_s=0.05))


def stop_when(job: StreamJob, condition: Callable[[JobNumbers], bool]) -> Callable[[JobNumbers], None]:
    """Return a progress callback that stops the job when ``condition`` is True, at the latest after 60 s."""
    deadline_s = time.monotonic() + 60

    def check(numbers: JobNumbers) -> None:
        if condition(numbers) or time.monotonic() > deadline_s:
            request_stop(job.stop_file)

    return check


def add_file(folder: Path, name: str, rows: pl.DataFrame | str) -> None:
    """Write a file into a folder that a job watches."""
    folder.mkdir(exist_ok=True)
    if isinstance(rows, str):
        (folder / name).write_text(rows)
    else:
        rows.write_parquet(folder / name)
    # Make the file old, so that a stream reads or rejects it at once: for a new file, the stream may wait
    # until the file has not changed for some time.
    os.utime(folder / name, (0, 0))
